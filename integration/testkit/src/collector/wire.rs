//! OTLP on the wire: one protobuf message, bare over HTTP and in a frame over gRPC.
//! <https://opentelemetry.io/docs/specs/otlp/>

use std::{convert::Infallible, sync::Arc};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;
use tonic::{Code, Status};

use super::{Export, Received, span};

/// Largest export in bytes.
const MAX_BODY: usize = 8 << 20;

/// Before a gRPC message: whether it is compressed, and its length.
const FRAME: usize = 5;

const HTTP_PATH: &str = "/v1/traces";
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Why an export is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Malformed,
    Full,
}

/// Answers one request.
pub(super) async fn answer(
    request: Request<Incoming>,
    received: Arc<Received>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let is_grpc = match head.uri.path() {
        HTTP_PATH => false,
        GRPC_PATH => true,
        _ => return Ok(plain(StatusCode::NOT_FOUND)),
    };
    let taken = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) if is_grpc => {
            unframe(body.to_bytes()).and_then(|message| take(message, &received))
        }
        Ok(body) => take(body.to_bytes(), &received),
        Err(_broken) => Err(Refused::Malformed),
    };
    Ok(if is_grpc {
        grpc(taken)
    } else {
        plain(status(taken))
    })
}

fn take(bytes: Bytes, received: &Received) -> Result<(), Refused> {
    let message = ExportTraceServiceRequest::decode(bytes.clone())
        .map_err(|_malformed| Refused::Malformed)?;
    let export = Export {
        bytes,
        spans: span::read(message),
    };
    received.keep(export).then_some(()).ok_or(Refused::Full)
}

/// The single message of a call, without its frame's header.
fn unframe(mut bytes: Bytes) -> Result<Bytes, Refused> {
    if bytes.len() < FRAME || bytes.get_u8() != 0 {
        return Err(Refused::Malformed);
    }
    let length = bytes.get_u32() as usize;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err(Refused::Malformed)
    }
}

/// An exporter tries again later after 503, and never after 400.
const fn status(taken: Result<(), Refused>) -> StatusCode {
    match taken {
        Ok(()) => StatusCode::OK,
        Err(Refused::Malformed) => StatusCode::BAD_REQUEST,
        Err(Refused::Full) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// An empty body is an empty message, which says that all spans were taken.
fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-protobuf"),
    );
    response
}

/// An empty message in its frame, and how it went in the trailers.
fn grpc(taken: Result<(), Refused>) -> Response<Body> {
    let status = match taken {
        Ok(()) => Status::new(Code::Ok, ""),
        Err(Refused::Malformed) => Status::new(Code::InvalidArgument, "not an export of traces"),
        Err(Refused::Full) => return Status::new(Code::Unavailable, "full").into_http(),
    };
    let mut trailers = HeaderMap::new();
    // Only metadata that is no header fails, and there is none.
    let _added = status.add_header(&mut trailers);
    let body =
        Full::new(Bytes::from_static(&[0; FRAME])).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_holds_exactly_one_message() {
        assert_eq!(
            unframe(Bytes::from_static(&[0, 0, 0, 0, 2, 7, 8])),
            Ok(Bytes::from_static(&[7, 8]))
        );
        for wrong in [
            &[][..],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 3, 7, 8],
            &[0, 0, 0, 0, 1, 7, 8],
            &[1, 0, 0, 0, 1, 7],
        ] {
            assert_eq!(
                unframe(Bytes::copy_from_slice(wrong)),
                Err(Refused::Malformed),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn a_full_collector_says_so_and_keeps_nothing_more() {
        let received = Received::default();
        for _ in 0..super::super::MAX_EXPORTS {
            assert_eq!(take(Bytes::new(), &received), Ok(()));
        }
        assert_eq!(take(Bytes::new(), &received), Err(Refused::Full));
        assert_eq!(received.exports.lock().len(), super::super::MAX_EXPORTS);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_export_or_malformed(bytes: Vec<u8>) {
            let received = Received::default();
            let taken = unframe(bytes.clone().into()).and_then(|message| take(message, &received));
            let bare = take(bytes.into(), &received);
            prop_assert!(taken != Err(Refused::Full) && bare != Err(Refused::Full));
            let kept = usize::from(taken.is_ok()) + usize::from(bare.is_ok());
            prop_assert_eq!(received.exports.lock().len(), kept);
        }
    }
}
