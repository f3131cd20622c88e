//! The messages of a picker: one function for each kind, without decisions.

use bytes::Bytes;
use hermes_proto::ext_proc::{
    BodyMutation, BodyResponse, BodySendMode, CommonResponse, HeaderMutation, HeaderValue,
    HeaderValueOption, HeadersResponse, HttpStatus, ImmediateResponse, ProcessingMode,
    ProcessingResponse, StreamedBodyResponse, TrailersResponse, body_mutation::Mutation,
    header_value_option::HeaderAppendAction, processing_response::Response as Kind,
};
use http::{HeaderName, Response};

/// Which half of an exchange a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Request,
    Answer,
}

/// Whole; nothing changes but these headers.
pub(super) fn headers(half: Half, mutation: HeaderMutation) -> ProcessingResponse {
    let is_empty = mutation.set_headers.is_empty() && mutation.remove_headers.is_empty();
    let response = HeadersResponse {
        response: Some(CommonResponse {
            header_mutation: (!is_empty).then_some(mutation),
            ..CommonResponse::default()
        }),
    };
    of(match half {
        Half::Request => Kind::RequestHeaders(response),
        Half::Answer => Kind::ResponseHeaders(response),
    })
}

/// The head passes, and the body of the request is wanted as a whole.
pub(super) fn buffer_the_body(answer: BodySendMode) -> ProcessingResponse {
    ProcessingResponse {
        mode_override: Some(ProcessingMode {
            request_body_mode: BodySendMode::Buffered.into(),
            response_body_mode: answer.into(),
        }),
        ..headers(Half::Request, HeaderMutation::default())
    }
}

/// A piece of a body passes as it is.
pub(super) fn unchanged(half: Half) -> ProcessingResponse {
    body(half, CommonResponse::default())
}

/// A piece of a body is replaced.
pub(super) fn replaced(half: Half, bytes: Bytes) -> ProcessingResponse {
    let mutation = if bytes.is_empty() {
        Mutation::ClearBody(true)
    } else {
        Mutation::Body(bytes)
    };
    body(half, mutated(mutation))
}

/// A piece of a body that is sent back in pieces.
pub(super) fn piece(half: Half, bytes: Bytes, end_of_stream: bool) -> ProcessingResponse {
    let piece = StreamedBodyResponse {
        body: bytes,
        end_of_stream,
    };
    body(half, mutated(Mutation::StreamedResponse(piece)))
}

/// The same with changes to the head, which the gateway holds back.
pub(super) fn with_headers(
    mut message: ProcessingResponse,
    mutation: HeaderMutation,
) -> ProcessingResponse {
    if let Some(Kind::RequestBody(BodyResponse { response })) = &mut message.response {
        let response = response.get_or_insert_default();
        response.header_mutation = Some(mutation);
    }
    message
}

/// Trailers pass as they are.
pub(super) fn trailers(half: Half) -> ProcessingResponse {
    let response = TrailersResponse {
        header_mutation: None,
    };
    of(match half {
        Half::Request => Kind::RequestTrailers(response),
        Half::Answer => Kind::ResponseTrailers(response),
    })
}

/// The gateway answers its client with this. `details` is for its access log.
pub(super) fn immediate(response: Response<Bytes>, details: &str) -> ProcessingResponse {
    let (head, body) = response.into_parts();
    let headers = head.headers.iter();
    let set_headers = headers
        .map(|(name, value)| set(name, value.as_bytes()))
        .collect();
    of(Kind::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus {
            code: head.status.as_u16().into(),
        }),
        headers: Some(HeaderMutation {
            set_headers,
            remove_headers: Vec::new(),
        }),
        body,
        details: details.to_owned(),
    }))
}

/// Sets a header in place of those of its name.
pub(super) fn set(name: &HeaderName, value: &[u8]) -> HeaderValueOption {
    set_named(name.as_str(), value)
}

/// The same for a pseudo-header.
pub(super) fn set_named(name: &str, value: &[u8]) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: String::new(),
            raw_value: Bytes::copy_from_slice(value),
        }),
        append: None,
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
    }
}

fn mutated(mutation: Mutation) -> CommonResponse {
    CommonResponse {
        body_mutation: Some(BodyMutation {
            mutation: Some(mutation),
        }),
        ..CommonResponse::default()
    }
}

fn body(half: Half, response: CommonResponse) -> ProcessingResponse {
    let response = BodyResponse {
        response: Some(response),
    };
    of(match half {
        Half::Request => Kind::RequestBody(response),
        Half::Answer => Kind::ResponseBody(response),
    })
}

fn of(response: Kind) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(response),
        ..ProcessingResponse::default()
    }
}
