//! What goes to the control plane: Score requests and reports of requests.

pub(crate) mod identity;
pub(crate) mod report;
pub(crate) mod score;
