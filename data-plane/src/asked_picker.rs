//! Another endpoint picker, which chooses the endpoints of a pool: this proxy is its gateway.
//!
//! ```text
//!   place ─▶ question ═══ one stream for each request ═══▶ picker
//!              answer ◀─ destination, edits of the head, the body as it is to be sent
//!   exchange ─▶ endpoint ─▶ answer's head ─▶ picker ─▶ edits of the head
//!                             its pieces ══▶ picker        what it returns of them is not used
//! ```
//!
//! [`client`] has the connections, [`exchange`] the path of a request. What messages say is in pure
//! files: [`question`], [`answer`], [`head_edits`], [`returned_body`].
//!
//! The protocol: Envoy's `envoy.service.ext_proc.v3`, as the endpoint picker protocol of the
//! Gateway API Inference Extension uses it (version 1.0.0,
//! `docs/proposals/004-endpoint-picker-protocol` of its repository).
//!
//! Invariants: a picker has time limits, and bounds for what it returns; a destination is an address
//! and no more, which the caller looks for among the endpoints of the pool; once there is one, a
//! picker that fails changes nothing for the request.

mod answer;
mod client;
mod draining_stream;
mod exchange;
mod head_edits;
mod question;
mod returned_body;
mod shown_answer;

pub(crate) use self::{
    answer::{PickedDestination, PickerAnswer},
    client::{PickerClient, PickerFault},
    exchange::{AskLimits, PickerExchange},
    question::PickerQuestion,
    shown_answer::ShownAnswer,
};
