//! The door for clients: worker threads, connections, and how they end.

mod graceful_close;
mod http;
pub(crate) mod workers;
