//! One stream of a gateway: one request, from its head to the last byte of its answer.
//!
//! ```text
//!   open ─▶ place, while the body arrives ─▶ hand over ─▶ watch the answer
//!             │                                │              │
//!             └──▶ an answer of the proxy ◀────┘              └─ nothing for too long: the stream ends,
//!                                                               and the gateway goes on without it
//! ```
//!
//! A gateway that leaves drops this work wherever it is, and with it everything that is counted.

#[cfg(test)]
mod tests;
mod watch;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use hermes_core::address::ServerScheme;
use hermes_proto::ext_proc::{
    BodySendMode, HeaderMutation, HttpHeaders, ProcessingRequest,
    processing_request::Request as Kind,
};
use http::{HeaderValue, Request, Response, StatusCode, header, uri::PathAndQuery};
use tokio::time::timeout;
use tonic::Status;
use tracing::Span;

use super::{
    destination::Destination,
    door::PickerDoor,
    messages::{self, Half},
    modes::{BodyMode, StreamModes},
    outbox::Outbox,
    request_head::{self, RequestHead},
    returned_body::{self, ShownBody},
    upload::{Upload, UploadedBody, upload},
};
use crate::{
    exchange::{gateway::GatewayExchange, trace},
    place::{
        ArrivedRequest, DoorPairs, DoorRequest, DoorRules, EndpointSubset, Placed, PlacedRequest,
        Rejection,
    },
    request::{headers::REQUEST_ID, local_reply::LocalReply},
    telemetry::metrics::PickerStreamEnd,
    view::pickers::PickerAuthority,
};

/// See the module. `inbound` are the messages of the gateway.
pub(super) struct ExchangeStream<S> {
    pub(super) door: Arc<PickerDoor>,
    pub(super) inbound: S,
    pub(super) outbox: Outbox,
    pub(super) gateway: SocketAddr,
    /// How the gateway reaches this picker.
    pub(super) picker: Option<PickerAuthority>,
}

/// The first message of a stream.
struct Opening {
    modes: StreamModes,
    subset: Option<EndpointSubset>,
    headers: HttpHeaders,
}

/// A request before it is placed.
struct GatewayRequest {
    request: Request<UploadedBody>,
    /// Absent for a request without a body.
    upload: Option<Upload>,
    start: ArrivedRequest,
    subset: Option<EndpointSubset>,
    modes: StreamModes,
}

/// What follows from a placement.
enum HandOver {
    /// The gateway has its destination.
    Watch(Box<GatewayExchange>),
    /// The gateway has an answer for its client.
    Answered,
}

/// What a message is while a request is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Uploaded {
    /// A part of the request.
    Part,
    /// The gateway does not wait for a destination any more.
    Left,
}

/// What the rest of a request needs of its beginning.
struct StreamIdentity {
    request_id: HeaderValue,
    server: Span,
}

/// What a gateway answers its client when it hides bodies.
const HIDDEN_BODY: &str = "the gateway shows this router no request bodies; \
    its ext_proc filter needs request_body_mode FULL_DUPLEX_STREAMED";

/// The same when it shows pieces only after the head is passed on.
const LATE_BODY: &str = "the gateway shows this router a request's body only after it is sent; \
    its ext_proc filter needs request_body_mode FULL_DUPLEX_STREAMED, or allow_mode_override";

impl<S> ExchangeStream<S>
where
    S: Stream<Item = Result<ProcessingRequest, Status>> + Unpin,
{
    /// Serves the request; every way to its end is counted.
    pub(super) async fn run(mut self) -> Result<(), Status> {
        let mut counted = self.door.count();
        let end = self.serve().await;
        counted.end = match &end {
            Ok(end) => *end,
            Err(_) => PickerStreamEnd::Failed,
        };
        end.map(|_| ())
    }

    async fn serve(&mut self) -> Result<PickerStreamEnd, Status> {
        let Some(Opening {
            modes,
            subset,
            headers,
        }) = self.open().await?
        else {
            return Ok(PickerStreamEnd::Left);
        };
        let has_body = !headers.end_of_stream;
        let head = match RequestHead::read(headers.headers.as_ref()) {
            Ok(head) => head,
            Err(reply) => return Ok(self.reply_without_a_head(reply)),
        };
        if has_body && modes.request == BodyMode::Hidden {
            return Ok(self.refuse(HIDDEN_BODY));
        }
        if has_body && modes.waits_with_body() {
            self.ask_for_the_body(modes);
        }
        let shown_path = head.uri.path_and_query().cloned();
        let shown_headers = head.headers.clone();
        let arrival = self.arrive(head, has_body, subset, modes);
        let identity = StreamIdentity {
            request_id: arrival.start.request_id.clone(),
            server: arrival.start.start.trace.server.clone(),
        };
        let mut shown = ShownBody::default();
        // In a box of its own, which is free again while the answer passes.
        let Some(placed) = Box::pin(self.place(arrival, &mut shown)).await? else {
            return Ok(PickerStreamEnd::Left);
        };
        let placed = match placed {
            Err(Rejection { reply, api }) => {
                self.reply(reply, api, &identity);
                return Ok(PickerStreamEnd::Replied);
            }
            Ok(Placed::Answered(json)) => {
                self.outbox.push(answered(json, &identity));
                return Ok(PickerStreamEnd::Replied);
            }
            // The gateway has routes of its own: a request of it follows none here.
            Ok(Placed::Redirected(_)) => {
                self.reply(LocalReply::NoRoute, None, &identity);
                return Ok(PickerStreamEnd::Replied);
            }
            Ok(Placed::Request(placed)) => placed,
        };
        let exposes_endpoint = placed.exposes_endpoint;
        let shown = (shown, &shown_headers, shown_path.as_ref());
        match Box::pin(self.hand_over(placed, modes, shown, &identity)).await {
            HandOver::Answered => Ok(PickerStreamEnd::Replied),
            HandOver::Watch(exchange) => {
                let rules = watch::WatchRules {
                    modes,
                    request_id: identity.request_id,
                    exposes_endpoint,
                };
                watch::watch(&mut self.inbound, &self.outbox, *exchange, &rules).await
            }
        }
    }

    /// Waits for the first message; `None` if the gateway leaves before.
    async fn open(&mut self) -> Result<Option<Opening>, Status> {
        let first = timeout(self.door.patience(), self.inbound.next()).await;
        let late = |_| Status::deadline_exceeded("no message came");
        let Some(first) = first.map_err(late)? else {
            return Ok(None);
        };
        let first = first?;
        if first.observability_mode {
            let reason = "observability_mode ignores the destination; switch it off";
            return Err(Status::invalid_argument(reason));
        }
        let modes = StreamModes::of(first.protocol_config.as_ref());
        let modes = modes.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let Some(Kind::RequestHeaders(headers)) = first.request else {
            let reason = "the first message must be request_headers; \
                the filter needs request_header_mode SEND";
            return Err(Status::invalid_argument(reason));
        };
        Ok(Some(Opening {
            modes,
            subset: request_head::subset(first.metadata_context.as_ref()),
            headers,
        }))
    }

    /// The gateway shows the body only after the head is answered.
    fn ask_for_the_body(&self, modes: StreamModes) {
        self.outbox.push(match modes.request {
            BodyMode::Streamed => messages::buffer_the_body(match modes.answer {
                BodyMode::Hidden => BodySendMode::None,
                BodyMode::Streamed => BodySendMode::Streamed,
                BodyMode::Buffered => BodySendMode::Buffered,
                BodyMode::FullDuplex => BodySendMode::FullDuplexStreamed,
            }),
            _ => messages::headers(Half::Request, HeaderMutation::default()),
        });
    }

    fn arrive(
        &self,
        head: RequestHead,
        has_body: bool,
        subset: Option<EndpointSubset>,
        modes: StreamModes,
    ) -> GatewayRequest {
        let client = head.client().unwrap_or_else(|| self.gateway.ip());
        let length = head.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let (sender, body) = upload(length.filter(|_| has_body));
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        *request.headers_mut() = head.headers;
        let client = client_socket(client, self.gateway);
        let client = (client, ServerScheme::Http);
        let start = self.door.placer.arrive(&mut request, client);
        GatewayRequest {
            request,
            upload: has_body.then_some(sender),
            start,
            subset,
            modes,
        }
    }

    /// Places the request while its body arrives. `None` if the gateway leaves, or answers its
    /// client by itself.
    async fn place(
        &mut self,
        arrival: GatewayRequest,
        shown: &mut ShownBody,
    ) -> Result<Option<Result<Placed, Rejection>>, Status> {
        let GatewayRequest {
            request,
            mut upload,
            start,
            subset,
            modes,
        } = arrival;
        let door = Arc::clone(&self.door);
        let placing = door.placer.place(DoorRequest {
            request,
            start: start.start,
            entry: None,
            rules: DoorRules {
                pairs: DoorPairs::ThroughDecode,
                subset,
                picker: self.picker.take(),
                asks_pickers: false,
            },
        });
        tokio::pin!(placing);
        loop {
            let next = async {
                if let Some(upload) = &upload {
                    upload.has_room().await;
                }
                self.inbound.next().await
            };
            let message = tokio::select! {
                biased;
                placed = &mut placing => return Ok(Some(placed)),
                message = next => message,
            };
            let Some(message) = message else {
                return Ok(None);
            };
            match uploaded(message?, &mut upload, shown).await? {
                Uploaded::Left => return Ok(None),
                Uploaded::Part if modes.waits_with_body() && shown.messages > 1 => {
                    self.refuse(LATE_BODY);
                    return Ok(None);
                }
                Uploaded::Part => {}
            }
        }
    }

    /// Gives the gateway its destination and the body as it is sent, or an answer for its client.
    async fn hand_over(
        &self,
        placed: Box<PlacedRequest>,
        modes: StreamModes,
        (shown, headers, path): (ShownBody, &http::HeaderMap, Option<&PathAndQuery>),
        identity: &StreamIdentity,
    ) -> HandOver {
        let PlacedRequest {
            request,
            pool,
            selection,
            guard,
            responses,
            ..
        } = *placed;
        let api = Some(request.api);
        let (named, kept) = (self.door.endpoints, (guard, responses));
        let begun = GatewayExchange::begin(request, &pool, &selection, kept, named).await;
        let (exchange, order) = match begun {
            Ok(begun) => begun,
            Err(reply) => {
                self.reply(reply, api, identity);
                return HandOver::Answered;
            }
        };
        let states_length = shown.messages > 0 && !shown.has_trailers;
        let destination = Destination::of(&order, (headers, path), states_length);
        let body = (order.body.into_pieces(), order.is_edited);
        let mut sent = returned_body::messages(modes, shown, destination.head.clone(), body);
        if let Some(first) = sent.first_mut() {
            destination.describe(first);
        }
        self.outbox.extend(sent);
        HandOver::Watch(Box::new(exchange))
    }

    /// The gateway's client gets a local reply.
    fn reply(
        &self,
        reply: LocalReply,
        api: Option<crate::request::api::Api>,
        identity: &StreamIdentity,
    ) {
        let StreamIdentity { request_id, server } = identity;
        let text = request_id.to_str().unwrap_or_default();
        tracing::debug!(request = text, %reply, "local reply to a gateway");
        let code = reply.code();
        self.door.metrics.requests.replied_locally(code);
        trace::local_reply(server, &reply);
        let mut response = reply.into_response(api, text);
        response.headers_mut().remove(header::CONNECTION);
        response
            .headers_mut()
            .insert(REQUEST_ID, request_id.clone());
        self.outbox.push(messages::immediate(response, code));
    }

    /// The head is none, so that nothing is known of the request.
    fn reply_without_a_head(&self, reply: LocalReply) -> PickerStreamEnd {
        let code = reply.code();
        self.door.metrics.requests.replied_locally(code);
        let response = reply.into_response(None, "");
        self.outbox.push(messages::immediate(response, code));
        PickerStreamEnd::Replied
    }

    /// The gateway is configured in a way in which no request can be placed.
    fn refuse(&self, reason: &'static str) -> PickerStreamEnd {
        tracing::warn!(gateway = %self.gateway, reason, "a gateway cannot be served");
        let body = serde_json::json!({"error": {
            "message": reason, "type": "server_error", "param": null, "code": "gateway_misconfigured",
        }});
        let mut response = json(Bytes::from(body.to_string()));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        let refusal = messages::immediate(response, "gateway_misconfigured");
        self.outbox.push(refusal);
        PickerStreamEnd::Failed
    }
}

/// Passes a message of the gateway on to the body that is placed.
async fn uploaded(
    message: ProcessingRequest,
    upload: &mut Option<Upload>,
    shown: &mut ShownBody,
) -> Result<Uploaded, Status> {
    match message.request {
        Some(Kind::RequestBody(body)) => {
            shown.messages += 1;
            if let Some(upload) = upload.as_ref().filter(|_| !body.body.is_empty()) {
                upload.push(body.body).await;
            }
            if body.end_of_stream {
                *upload = None;
            }
        }
        Some(Kind::RequestTrailers(_)) => {
            shown.has_trailers = true;
            *upload = None;
        }
        Some(Kind::RequestHeaders(_)) => {
            return Err(Status::invalid_argument("a second request_headers came"));
        }
        // It answers its client by itself, as after a time limit of its own.
        Some(_) => return Ok(Uploaded::Left),
        None => {}
    }
    Ok(Uploaded::Part)
}

/// What the proxy answers itself.
fn answered(body: Bytes, identity: &StreamIdentity) -> hermes_proto::ext_proc::ProcessingResponse {
    trace::status(&identity.server, StatusCode::OK);
    let mut response = json(body);
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, identity.request_id.clone());
    messages::immediate(response, "answered_by_the_router")
}

fn json(body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A client that the gateway names has no port that is known.
fn client_socket(client: IpAddr, gateway: SocketAddr) -> SocketAddr {
    if client == gateway.ip() {
        gateway
    } else {
        SocketAddr::new(client, 0)
    }
}
