//! KV events: what engines publish about their caches, and what the router derives from it.

mod accuracy;
mod fleet;
mod ranks;
mod stream_faults;
mod watched;
