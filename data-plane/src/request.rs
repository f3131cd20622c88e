//! A client's request: receiving it, parsing what routing needs, and local replies to what cannot
//! be served.

pub(crate) mod admission;
mod answer_count;
pub(crate) mod api;
pub(crate) mod body_edit;
pub(crate) mod content_encoding;
mod control_fields;
pub(crate) mod cors;
pub(crate) mod entry;
mod extra_body;
pub(crate) mod fields;
pub(crate) mod headers;
mod identity;
pub(crate) mod inference_request;
pub(crate) mod intake;
pub(crate) mod leg_body;
pub(crate) mod leg_host;
pub(crate) mod local_reply;
pub mod lookup;
mod media;
pub(crate) mod object_scanner;
pub(crate) mod picker_reply;
pub(crate) mod prompt;
pub(crate) mod request_body;
pub(crate) mod route_terms;
mod stream_options;
pub(crate) mod time_limits;
mod upload_pace;
