//! The scheduler end to end: real planes over real sockets, in front of engines with the timing of
//! a GPU.

mod control_plane_loss;
mod departures;
mod explanation;
mod faulty_sources;
mod harness;
mod lanes;
mod learned_caches;
mod queueing;
mod replicas;
mod speeds;
