//! The answer to a request, as a gateway shows it while it passes.

use std::net::SocketAddr;

use futures::{Stream, StreamExt};
use hermes_proto::ext_proc::{
    HeaderMutation, HttpBody, HttpHeaders, Metadata, ProcessingRequest,
    processing_request::Request as Kind,
};
use http::{HeaderValue, header::CONTENT_LENGTH};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::{
    exchange::gateway::{GatewayAnswer, GatewayExchange},
    picker::{
        destination::LOAD_BALANCING,
        messages::{self, Half, set},
        modes::{BodyMode, StreamModes},
        outbox::Outbox,
        request_head::{answer_head, metadata_text},
    },
    request::headers::{ENDPOINT, REQUEST_ID},
    telemetry::metrics::PickerStreamEnd,
};

/// The key of the metadata in which a gateway states the endpoint that answers.
const SERVED: &str = "x-gateway-destination-endpoint-served";

/// How an answer is watched.
pub(super) struct WatchRules {
    pub(super) modes: StreamModes,
    pub(super) request_id: HeaderValue,
    /// The client may know which endpoint answered.
    pub(super) exposes_endpoint: bool,
}

/// Whether more of an answer follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    More,
    Complete,
}

/// Watches the answer to its end, or until the gateway leaves, or too long nothing has come: the
/// stream then ends, and the gateway passes the rest on without it.
pub(super) async fn watch<S>(
    inbound: &mut S,
    outbox: &Outbox,
    mut exchange: GatewayExchange,
    rules: &WatchRules,
) -> Result<PickerStreamEnd, Status>
where
    S: Stream<Item = Result<ProcessingRequest, Status>> + Unpin,
{
    // Set again only when it fires, so that pieces do not touch it.
    let timer = sleep_until(exchange.due());
    tokio::pin!(timer);
    loop {
        let message = tokio::select! {
            message = inbound.next() => message,
            () = &mut timer => {
                if exchange.due() <= Instant::now() {
                    exchange.expire();
                    return Ok(PickerStreamEnd::TimedOut);
                }
                timer.as_mut().reset(exchange.due());
                continue;
            }
        };
        let message = match message {
            Some(Ok(message)) => message,
            // It shows nothing of the body: the stream ends with the answer.
            Some(Err(_)) | None if exchange.is_hidden() => return Ok(PickerStreamEnd::Served),
            Some(Err(error)) => {
                tracing::debug!(%error, "a gateway's stream broke");
                return Ok(PickerStreamEnd::Left);
            }
            None => return Ok(PickerStreamEnd::Left),
        };
        if follow(message, outbox, &mut exchange, rules)? == Progress::Complete {
            exchange.complete();
            return Ok(PickerStreamEnd::Served);
        }
    }
}

fn follow(
    message: ProcessingRequest,
    outbox: &Outbox,
    exchange: &mut GatewayExchange,
    rules: &WatchRules,
) -> Result<Progress, Status> {
    let ProcessingRequest {
        request,
        metadata_context,
        ..
    } = message;
    Ok(match request {
        Some(Kind::ResponseHeaders(headers)) => {
            begin(&headers, metadata_context.as_ref(), exchange, rules)?;
            outbox.push(messages::headers(Half::Answer, changes(exchange, rules)));
            ended(headers.end_of_stream)
        }
        Some(Kind::ResponseBody(body)) => {
            let HttpBody {
                body,
                end_of_stream,
            } = body;
            let shown = (body.as_ptr(), body.len());
            let piece = exchange.piece(body);
            let is_changed = shown != (piece.as_ptr(), piece.len());
            outbox.push(match rules.modes.answer {
                BodyMode::FullDuplex => messages::piece(Half::Answer, piece, end_of_stream),
                _ if is_changed => messages::replaced(Half::Answer, piece),
                _ => messages::unchanged(Half::Answer),
            });
            ended(end_of_stream)
        }
        Some(Kind::ResponseTrailers(_)) => {
            outbox.push(messages::trailers(Half::Answer));
            Progress::Complete
        }
        Some(Kind::RequestTrailers(_)) => {
            outbox.push(messages::trailers(Half::Request));
            Progress::More
        }
        Some(Kind::RequestHeaders(_) | Kind::RequestBody(_)) => {
            return Err(Status::invalid_argument(
                "a part of the request came after its end",
            ));
        }
        None => Progress::More,
    })
}

fn begin(
    headers: &HttpHeaders,
    metadata: Option<&Metadata>,
    exchange: &mut GatewayExchange,
    rules: &WatchRules,
) -> Result<(), Status> {
    let head = answer_head(headers.headers.as_ref());
    let head = head.ok_or_else(|| Status::invalid_argument("response_headers without :status"))?;
    let served = metadata_text(metadata, LOAD_BALANCING, SERVED);
    exchange.answered(&GatewayAnswer {
        head,
        served: served.and_then(|served| served.parse::<SocketAddr>().ok()),
        shows_body: rules.modes.answer != BodyMode::Hidden || headers.end_of_stream,
    });
    Ok(())
}

/// How the head of the answer changes.
fn changes(exchange: &GatewayExchange, rules: &WatchRules) -> HeaderMutation {
    let mut set_headers = vec![set(&REQUEST_ID, rules.request_id.as_bytes())];
    if let Some(endpoint) = exchange.endpoint().filter(|_| rules.exposes_endpoint) {
        set_headers.push(set(&ENDPOINT, endpoint.as_bytes()));
    }
    let is_edited = exchange.edits_answer();
    let length = is_edited.then(|| CONTENT_LENGTH.as_str().to_owned());
    HeaderMutation {
        set_headers,
        remove_headers: length.into_iter().collect(),
    }
}

const fn ended(end_of_stream: bool) -> Progress {
    if end_of_stream {
        Progress::Complete
    } else {
        Progress::More
    }
}
