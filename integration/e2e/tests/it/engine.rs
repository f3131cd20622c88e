//! The simulated engine, over real sockets: its bytes against captures of a real vLLM, its
//! behavior, its faults.

mod behavior;
mod bytes;
mod faults;
mod pairs;
mod wire;
