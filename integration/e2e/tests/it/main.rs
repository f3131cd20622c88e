//! End-to-end tests over real sockets, one file for each behavior that Hermes guarantees.

mod cache_sources;
mod client;
mod configuration_events;
mod control;
mod conversation;
mod discovery;
mod docs;
mod drain;
mod endpoint_tls;
mod engine;
mod fallback;
mod kv_events;
mod kv_manager;
mod load;
mod placement;
mod proxy_context;
mod queue;
mod records;
mod retry;
mod route;
mod routing_history;
mod scheduling;
mod stream;
mod tls;
mod tokens;
