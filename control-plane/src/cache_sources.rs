//! Where the control plane learns what is in the engines' KV caches.
//!
//! | source | folder | knows |
//! |---|---|---|
//! | KV events | [`kv_events`] | the blocks that engines report to have stored and removed |
//! | KV manager | [`kv_manager`] | what an external cache index answers for one prompt |
//!
//! Both need a prompt's token ids: [`tokenizer`] computes them, or requests them from an engine.
//!
//! Each source is optional and configured per pool. A source that fails, is late or answers
//! nonsense costs routing quality and never a request.

pub mod kv_events;
pub mod kv_manager;
pub mod lookup_client;
pub mod tokenizer;

mod single_flight;
