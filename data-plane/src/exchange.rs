//! Sending a request to an endpoint, relaying the answer, and what is recorded of both.

pub(crate) mod forward;
pub(crate) mod guard;
pub(crate) mod relay;
pub(crate) mod trace;
