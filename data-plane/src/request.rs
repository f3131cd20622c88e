//! What a client asks: taking it in, reading what routing needs of it, and local replies to what cannot be served.

pub(crate) mod admission;
pub(crate) mod api;
pub(crate) mod fields;
pub(crate) mod headers;
pub(crate) mod inference_request;
pub(crate) mod intake;
pub(crate) mod local_reply;
pub mod lookup;
pub(crate) mod outgoing;
pub(crate) mod prompt;
