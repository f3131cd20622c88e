//! Why an answer cannot be translated.

/// An answer of a server that is not what its API describes, or has what the other API does not.
///
/// It names the field and repeats nothing of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UntranslatableAnswer {
    /// It is no JSON object with fields of the types that they have.
    #[error("the model's server returned an answer that is not of its API")]
    Malformed,
    /// There is no answer in it.
    #[error("the model's server returned no choice")]
    NoChoice,
    /// The arguments of a call are not the text of an object, although the answer is complete.
    #[error("the model called a tool with arguments that are no JSON object")]
    BrokenArguments,
    /// A call has no name.
    #[error("the model called a tool without a name")]
    NamelessCall,
    /// There are arguments behind the end of a call's.
    #[error("the model's server returned arguments for a tool call that was complete")]
    LateArguments,
    /// More is held back than is held in memory.
    #[error("the model's server mixed the parts of more tool calls than can be held back")]
    TooMuchHeld,
    /// One event is longer than is read.
    #[error("the model's server returned an event that is too long")]
    OverlongEvent,
    /// A block or a part of a kind that only this API has.
    #[error("the model's server returned content of a kind that the client's API does not have")]
    UnknownContent,
    /// The stream ended before its last event.
    #[error("the answer of the model's server ended before it was complete")]
    EndedEarly,
}
