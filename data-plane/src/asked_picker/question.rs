//! What a picker is shown of a request: the messages of a gateway with full-duplex bodies.

use std::net::SocketAddr;

use bytes::Bytes;
use hermes_proto::{
    Kind, ListValue, Struct, Value,
    ext_proc::{
        BodySendMode, HeaderMap as WireHeaders, HeaderValue as WireHeader, HttpBody, HttpHeaders,
        Metadata, ProcessingRequest, ProtocolConfiguration, processing_request::Request,
    },
};
use http::{HeaderMap, Method, header, response, uri::PathAndQuery};

/// The namespace, and the key in it, of the endpoints that may be chosen.
const SUBSET: (&str, &str) = (
    "envoy.lb.subset_hint",
    "x-gateway-destination-endpoint-subset",
);

/// The namespace, and the key in it, of the endpoint that has answered.
const SERVED: (&str, &str) = ("envoy.lb", "x-gateway-destination-endpoint-served");

/// The longest piece of a body that is sent at once: servers of gRPC in Go accept 4 MiB.
pub(super) const LONGEST: usize = 64 << 10;

/// A request as a picker is to see it.
pub(crate) struct PickerQuestion<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a PathAndQuery,
    /// What the client asked, if that is known.
    pub(crate) host: Option<&'a str>,
    /// As endpoints get them.
    pub(crate) headers: &'a HeaderMap,
    /// As endpoints get it, in pieces.
    pub(crate) body: &'a [Bytes],
    /// The only endpoints that may be chosen; `None`: those of the pool, as the picker knows it.
    pub(crate) among: Option<Vec<SocketAddr>>,
}

impl PickerQuestion<'_> {
    /// The messages, in their order.
    pub(super) fn messages(&self) -> Vec<ProcessingRequest> {
        let mut pieces: Vec<Bytes> = self.body.iter().flat_map(cut).collect();
        let last = pieces.pop();
        let head = Request::RequestHeaders(HttpHeaders {
            headers: Some(self.head()),
            end_of_stream: last.is_none(),
        });
        let first = ProcessingRequest {
            request: Some(head),
            metadata_context: self.among.as_deref().map(subset),
            protocol_config: Some(ProtocolConfiguration {
                request_body_mode: BodySendMode::FullDuplexStreamed.into(),
                response_body_mode: BodySendMode::FullDuplexStreamed.into(),
                send_body_without_waiting_for_header_response: false,
            }),
            ..ProcessingRequest::default()
        };
        let pieces = pieces.into_iter().map(|piece| (piece, false));
        let pieces = pieces.chain(last.map(|last| (last, true)));
        let pieces = pieces.map(|(body, end_of_stream)| {
            message(Request::RequestBody(HttpBody {
                body,
                end_of_stream,
            }))
        });
        std::iter::once(first).chain(pieces).collect()
    }

    /// The request line as pseudo-headers (RFC 9113, 8.3.1), then the headers.
    fn head(&self) -> WireHeaders {
        let length = self.body.iter().map(Bytes::len).sum::<usize>();
        let length = length.to_string();
        let line = [
            (":method", self.method.as_str()),
            (":scheme", "http"),
            (":authority", self.host.unwrap_or("localhost")),
            (":path", self.target.as_str()),
        ];
        let line = line.map(|(key, value)| field(key, value.as_bytes()));
        let length = (!self.body.is_empty())
            .then(|| field(header::CONTENT_LENGTH.as_str(), length.as_bytes()));
        WireHeaders {
            headers: line
                .into_iter()
                .chain(fields(self.headers))
                .chain(length)
                .collect(),
        }
    }
}

/// The head of an answer, and who gave it.
pub(super) fn answer_head(
    head: &response::Parts,
    served: Option<SocketAddr>,
    end_of_stream: bool,
) -> ProcessingRequest {
    let status = field(":status", head.status.as_str().as_bytes());
    let headers = WireHeaders {
        headers: std::iter::once(status)
            .chain(fields(&head.headers))
            .collect(),
    };
    ProcessingRequest {
        metadata_context: served.map(|served| entry(SERVED, text(served.to_string()))),
        ..message(Request::ResponseHeaders(HttpHeaders {
            headers: Some(headers),
            end_of_stream,
        }))
    }
}

/// A piece of an answer.
pub(super) fn answer_piece(body: Bytes, end_of_stream: bool) -> ProcessingRequest {
    message(Request::ResponseBody(HttpBody {
        body,
        end_of_stream,
    }))
}

/// The pieces of a piece that are short enough.
pub(super) fn cut(piece: &Bytes) -> impl Iterator<Item = Bytes> {
    let starts = (0..piece.len()).step_by(LONGEST);
    starts.map(|start| piece.slice(start..piece.len().min(start + LONGEST)))
}

fn message(request: Request) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(request),
        ..ProcessingRequest::default()
    }
}

fn fields(headers: &HeaderMap) -> impl Iterator<Item = WireHeader> {
    let headers = headers.iter();
    headers.map(|(name, value)| field(name.as_str(), value.as_bytes()))
}

fn field(key: &str, value: &[u8]) -> WireHeader {
    WireHeader {
        key: key.to_owned(),
        value: String::new(),
        raw_value: Bytes::copy_from_slice(value),
    }
}

fn subset(among: &[SocketAddr]) -> Metadata {
    let values = among.iter().map(|socket| text(socket.to_string()));
    let list = ListValue {
        values: values.collect(),
    };
    let list = Value {
        kind: Some(Kind::ListValue(list)),
    };
    entry(SUBSET, list)
}

/// One value in the metadata.
fn entry((namespace, key): (&str, &str), value: Value) -> Metadata {
    let fields = Struct {
        fields: [(key.to_owned(), value)].into_iter().collect(),
    };
    Metadata {
        filter_metadata: [(namespace.to_owned(), fields)].into_iter().collect(),
    }
}

fn text(text: String) -> Value {
    Value {
        kind: Some(Kind::StringValue(text)),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn ask(
        headers: &HeaderMap,
        body: &[Bytes],
        among: Option<Vec<SocketAddr>>,
    ) -> Vec<ProcessingRequest> {
        let question = PickerQuestion {
            method: &Method::POST,
            target: &PathAndQuery::from_static("/v1/completions?a=1"),
            host: Some("models.example"),
            headers,
            body,
            among,
        };
        question.messages()
    }

    fn head(message: &ProcessingRequest) -> (Vec<(String, String)>, bool) {
        let Some(Request::RequestHeaders(head)) = &message.request else {
            panic!("{message:?}")
        };
        let fields = &head.headers.as_ref().expect("fields").headers;
        let fields = fields.iter().map(|field| {
            let value = String::from_utf8_lossy(&field.raw_value).into_owned();
            (field.key.clone(), value)
        });
        (fields.collect(), head.end_of_stream)
    }

    #[test]
    fn the_head_has_the_request_line_every_header_and_the_length() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        let messages = ask(&headers, &[Bytes::from_static(b"{}")], None);
        let (fields, is_end) = head(&messages[0]);
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let expected = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "models.example"),
            (":path", "/v1/completions?a=1"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("content-length", "2"),
        ];
        assert_eq!((fields.as_slice(), is_end), (&expected[..], false));
        assert_eq!(messages[0].metadata_context, None);
    }

    #[test]
    fn a_request_without_a_body_is_its_head() {
        let messages = ask(&HeaderMap::new(), &[], None);
        assert_eq!(messages.len(), 1);
        let (fields, is_end) = head(&messages[0]);
        assert!(is_end && fields.iter().all(|(key, _)| key != "content-length"));
    }

    #[test]
    fn a_long_body_is_sent_in_short_pieces_of_which_the_last_ends_it() {
        let body = [
            Bytes::from(vec![b'a'; LONGEST + 1]),
            Bytes::from_static(b"b"),
        ];
        let messages = ask(&HeaderMap::new(), &body, None);
        let pieces = messages[1..].iter().map(|message| match &message.request {
            Some(Request::RequestBody(piece)) => (piece.body.len(), piece.end_of_stream),
            other => panic!("{other:?}"),
        });
        let pieces: Vec<_> = pieces.collect();
        assert_eq!(pieces, [(LONGEST, false), (1, false), (1, true)]);
    }

    #[test]
    fn the_endpoints_that_may_be_chosen_are_in_the_metadata() {
        let among = ["10.0.0.1:8000", "[fd00::1]:8000"].map(|text| text.parse().expect("one"));
        let messages = ask(&HeaderMap::new(), &[], Some(among.into()));
        let metadata = messages[0].metadata_context.as_ref().expect("some");
        let value = &metadata.filter_metadata[SUBSET.0].fields[SUBSET.1];
        let Some(Kind::ListValue(list)) = &value.kind else {
            panic!("{value:?}")
        };
        let expected = among.map(|socket| text(socket.to_string()));
        assert_eq!(list.values, expected);
    }
}
