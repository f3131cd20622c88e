//! Discovery against a scripted API server: what appears, what leaves, and what the server may do
//! wrong meanwhile.

mod outages;
mod pool;
mod restart;
mod selection;
