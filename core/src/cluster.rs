//! What the control plane publishes: the structure of the cluster as versioned snapshots and their
//! deltas, the load of endpoints, which replica schedules which pool, and where servers are.

pub mod address;
pub mod certificate;
pub mod collection;
pub mod delta;
pub mod departures;
pub mod inference_pool;
pub mod listener;
pub mod load;
pub mod rendezvous;
pub mod rewrites;
pub mod route;
pub mod snapshot;
mod version;
