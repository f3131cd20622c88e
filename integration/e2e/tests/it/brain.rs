//! The brain end to end: real planes over real sockets, in front of engines that compute as fast as a GPU does.

mod caches;
mod explained;
mod leaving;
mod lies;
mod replicas;
mod speeds;
mod stage;
mod waiting;
mod without;
