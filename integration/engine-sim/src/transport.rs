//! Ports and connections below HTTP and ZMTP: a port that can refuse, a connection that can end in
//! a reset.

pub(crate) mod port;
pub(crate) mod socket;
