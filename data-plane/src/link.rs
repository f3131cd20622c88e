//! What goes to the control plane: questions for a choice, and reports of what became of requests.

pub(crate) mod identity;
pub(crate) mod report;
pub(crate) mod score;
