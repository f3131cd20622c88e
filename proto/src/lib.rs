//! The contract between the planes: `hermes.v1` on the wire, and what its messages mean in
//! [`hermes_core`].
//!
//! Only the two planes and the test harness use the generated types, and only at their borders:
//! everything behind a border works on checked values of `hermes_core`. [`convert`] holds every
//! conversion, both ways; a message that cannot be converted is an [`Invalid`](convert::Invalid)
//! that names the field.
//!
//! Invariant: no decisions here, and no I/O.

/// Generated from `proto/hermes/v1/*.proto`, where the messages are documented.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("hermes.v1");
}

/// Encodes and decodes the messages of [`v1`].
pub use prost::Message;

/// Largest message that either end accepts, in bytes: a snapshot of ten thousand endpoints takes
/// about two million.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

pub mod convert;
