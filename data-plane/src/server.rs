//! The ports of clients and gateways: worker threads, connections, and how they end.

mod answer_body;
mod answer_progress;
mod client_body;
mod client_deadlines;
mod client_requests;
mod client_socket;
mod client_stream;
mod graceful_close;
mod http;
mod lingering_close;
pub(crate) mod picker_port;
mod port_certificates;
pub(crate) mod ports;
pub(crate) mod served_port;
mod stream_tasks;
pub(crate) mod workers;
