//! What engines tell of their caches, and what the router believes of it.

mod fleet;
mod ranks;
mod truth;
mod watched;
mod wrong;
