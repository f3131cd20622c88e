//! Connections and the way of one request through an engine.

mod server;
mod service;
mod trace;

pub(crate) use server::{Connections, Orders, serve};
pub(crate) use service::Service;
