//! The brain end to end: real planes over real sockets, in front of engines that compute as fast as a GPU does.

mod caches;
mod explained;
mod lies;
mod replicas;
mod stage;
mod waiting;
mod without;
