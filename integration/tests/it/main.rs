//! Stories over real sockets: each file is one side of what Hermes promises.

mod client;
mod control;
mod discovery;
mod engine;
mod kvmanager;
mod load;
mod retry;
mod route;
mod stream;
mod tidy;
