//! x
pub mod decode;
mod msgpack;
