//! The picker's door: gateways ask by `ext_proc` where the requests of their clients should go, and
//! send them there themselves.
//!
//! ```text
//!   client ─▶ gateway ═══ one stream for each request ═══▶ door
//!                │    head, body    ─▶ upload ─▶ place     where it goes, as for every door
//!                │    destination, the body as it is sent ◀─ destination, returned_body
//!                ▼    answer        ─▶ exchange::gateway   what is seen of it
//!             endpoint
//! ```
//!
//! [`exchange_stream`] is the path of a request, from top to bottom. What the messages say is in
//! pure files: [`modes`] (which parts of a request a gateway shows, and what it waits for),
//! [`request_head`], [`destination`], [`returned_body`], [`messages`].
//!
//! The protocol: Envoy's `envoy.service.ext_proc.v3`, as the endpoint picker protocol of the
//! Gateway API Inference Extension uses it
//! (`docs/proposals/004-endpoint-picker-protocol` of its repository).
//!
//! Invariants: one task polls both directions of a stream; a message of a gateway has at most one
//! response, and none before what it depends on; what is counted for a request is released when its
//! stream ends, in whatever way.

mod destination;
pub(crate) mod door;
mod exchange_stream;
mod health;
mod messages;
mod modes;
mod outbox;
mod request_head;
mod returned_body;
pub(crate) mod service;
mod upload;
