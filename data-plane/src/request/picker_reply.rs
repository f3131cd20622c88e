//! An answer that another endpoint picker gives a client.

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

/// See the module. The client gets it as it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PickerReply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl PickerReply {
    pub(crate) fn into_response(self) -> Response<Bytes> {
        let mut response = Response::new(self.body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}
