//! Stories over real sockets: each file is one side of what Hermes promises.

mod announced;
mod brain;
mod client;
mod control;
mod conversation;
mod discovery;
mod docs;
mod drain;
mod engine;
mod knowledge;
mod kv_events;
mod kvmanager;
mod ladder;
mod load;
mod memory;
mod queue;
mod records;
mod retry;
mod route;
mod stream;
mod tls;
mod tokens;
mod world;
