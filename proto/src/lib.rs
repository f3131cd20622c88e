//! The contract between the planes: `hermes.v1` on the wire, and what its messages mean in
//! [`hermes_core`]. And two contracts of others, by which gateways ask the data plane: [`ext_proc`]
//! and [`health`].
//!
//! Only the two planes and the test harness use the generated types, and only at their borders:
//! everything behind a border works on checked values of `hermes_core`. [`convert`] holds every
//! conversion, both ways; a message that cannot be converted is an [`Invalid`](convert::Invalid)
//! that names the field.
//!
//! Invariant: no decisions here, and no I/O.

/// Generated from `proto/hermes/v1/*.proto`, where the messages are documented, by the test that
/// compares the two.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod v1 {
    include!("../generated/hermes.v1.rs");
}

/// External processing, by which a gateway asks an endpoint picker: the part of Envoy's API that one
/// uses. Generated from `proto/envoy/service/ext_proc/v3/external_processor.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod ext_proc {
    include!("../generated/envoy.service.ext_proc.v3.rs");

    impl HeaderValue {
        /// The value, in whichever of its two fields the sender has it.
        #[must_use]
        pub fn bytes(&self) -> &[u8] {
            if self.raw_value.is_empty() {
                self.value.as_bytes()
            } else {
                &self.raw_value
            }
        }
    }
}

/// Health checks over gRPC. Generated from `proto/grpc/health/v1/health.proto`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod health {
    include!("../generated/grpc.health.v1.rs");
}

/// Encodes and decodes the messages of [`v1`].
pub use prost::Message;
/// The value of a structure, in metadata of [`ext_proc`].
pub use prost_types::{ListValue, Struct, Value, value::Kind};

/// Largest message that either end accepts, in bytes: a snapshot of ten thousand endpoints takes
/// about two million.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;

pub mod convert;
mod small_buffers;

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::v1;

    #[test]
    fn a_report_on_leg_0_has_the_bytes_of_one_from_before_there_were_legs() {
        let event = v1::report::Event::FirstByte(v1::FirstByte { ttft_us: 5 });
        let report = v1::Report {
            request: 7,
            leg: 0,
            event: Some(event),
        };
        let bytes = [9, 7, 0, 0, 0, 0, 0, 0, 0, 0x1a, 2, 8, 5];
        assert_eq!(report.encode_to_vec(), bytes);
        assert_eq!(v1::Report::decode(&bytes[..]), Ok(report));
    }
}
