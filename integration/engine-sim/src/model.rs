//! The simulated machine: batches, KV blocks, tokens and their counts. Pure: it knows neither clock
//! nor socket.

pub mod cache;
pub(crate) mod cache_events;
pub mod chain;
pub(crate) mod meters;
pub mod scheduler;
pub mod sequence;
pub mod text;
pub(crate) mod tokenizer;
