//! KV events: what engines publish about their caches, and what the router derives from it.

mod accuracy;
mod dialers;
mod entry;
mod fleet;
mod ranks;
mod stream_faults;
mod watched;
