//! Fakes of the servers around Hermes, for tests. None of it is shipped.
//!
//! Each is a real server over real sockets, scripted by the test that owns it; none is a flag or a
//! mode of the planes.
//!
//! * [`apiserver`]: the part of the Kubernetes API that discovery uses.
//! * [`collector`]: an OpenTelemetry collector.
//! * [`conductor`]: a Mooncake Conductor.
//! * [`http2_server`]: a server over HTTP/2, whose streams the test answers, refuses and resets.
//! * [`replica`]: a control-plane replica that answers what the test orders.
//! * [`scripted_engine`]: an engine whose answers are bytes that the test writes.
//! * [`scripted_picker`]: an endpoint picker whose messages the test writes.

pub mod apiserver;
pub mod collector;
pub mod conductor;
pub mod http2_server;
pub mod replica;
pub mod scripted_engine;
pub mod scripted_picker;
