//! What a client asks: taking it in, reading what routing needs of it, and refusing what cannot be served.

pub(crate) mod admission;
pub(crate) mod api;
pub(crate) mod body;
pub(crate) mod headers;
pub mod lookup;
pub(crate) mod outgoing;
pub(crate) mod prompt;
pub(crate) mod read;
pub(crate) mod refusal;
