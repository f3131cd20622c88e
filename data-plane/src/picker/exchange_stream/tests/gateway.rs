//! The side of a gateway, written by a test, and a data plane whose endpoints are not contacted.

use std::num::NonZeroUsize;

use hermes_core::{
    collection::Collection,
    policy::{PoolPolicy, Strategy},
    snapshot::{Endpoint, EndpointId, PairingFacts, Pool, PoolSpec, Role, Snapshot},
};
use hermes_proto::{
    ext_proc::{
        HeaderMap as WireHeaders, HeaderValue as WireHeader, HttpBody, ProcessingResponse,
        ProtocolConfiguration, body_mutation::Mutation, processing_response::Response as Answer,
    },
    v1,
};
use hermes_runtime::shutdown::Drain;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::super::*;
use crate::{
    link::report::Reporter,
    picker::outbox::OutboxStream,
    place::Placer,
    request::admission::AdmissionLimit,
    sync::RoutingState,
    telemetry::{
        access_log::AccessLog,
        metrics::{ProxyMetrics, RequestOutcome},
    },
    view::RoutingView,
};

/// A data plane with two endpoints, and what it reports.
pub(super) struct Context {
    pub(super) door: Arc<PickerDoor>,
    reports: mpsc::Receiver<v1::Report>,
}

/// A gateway's side of one stream.
pub(super) struct Gateway {
    sent: mpsc::Sender<Result<ProcessingRequest, Status>>,
    pub(super) answers: OutboxStream,
}

impl Context {
    pub(super) fn open() -> Self {
        let endpoint = |(id, address): (u64, &str)| {
            Arc::new(Endpoint {
                id: EndpointId(id),
                name: address.into(),
                role: Role::default(),
                group: None,
                pairing: PairingFacts::default(),
                address: format!("http://{address}").parse().expect("an address"),
            })
        };
        let endpoints = [(1, "10.0.0.1:8000"), (2, "10.0.0.2:8000")];
        let pool = Pool {
            spec: Arc::new(PoolSpec::new(
                "chat",
                PoolPolicy {
                    strategy: Strategy::RoundRobin,
                    ..PoolPolicy::default()
                },
            )),
            models: Collection::default(),
            endpoints: endpoints.into_iter().map(endpoint).collect(),
        };
        let snapshot = Arc::new(Snapshot {
            pools: vec![Arc::new(pool)].into(),
            ..Snapshot::default()
        });
        let metrics = Arc::new(ProxyMetrics::register(&mut Registry::default()));
        let view = RoutingView::build(snapshot, None, &metrics, NonZeroUsize::MIN);
        let routing = RoutingState::default();
        routing.view.store(Some(Arc::new(view)));
        let (reporter, reports) = Reporter::new();
        let sinks = (Arc::new(reporter), Arc::new(AccessLog::default()));
        let limits = (Drain::default(), AdmissionLimit::new(None));
        let placer = Placer::new(routing.clone(), 1, sinks, Arc::clone(&metrics), limits);
        let door = PickerDoor {
            placer: Arc::new(placer),
            routing,
            metrics,
            endpoints: 1,
        };
        Self {
            door: Arc::new(door),
            reports,
        }
    }

    pub(super) fn stream(&self) -> Gateway {
        let (sent, inbound) = mpsc::channel(64);
        let outbox = Outbox::default();
        let stream = ExchangeStream {
            door: Arc::clone(&self.door),
            inbound: ReceiverStream::new(inbound),
            outbox: outbox.clone(),
            gateway: SocketAddr::from(([127, 0, 0, 1], 1)),
            picker: None,
        };
        Gateway {
            sent,
            answers: outbox.stream(stream.run()),
        }
    }

    pub(super) fn ended(&self, end: PickerStreamEnd) -> u64 {
        self.door.metrics.picker.ends[end].get()
    }

    /// Requests that were answered to their end.
    pub(super) fn served(&self) -> u64 {
        let view = self.door.routing.view.load();
        let pool = &view.as_ref().expect("a view").pools[0];
        pool.models.get(None).requests[RequestOutcome::Ok].get()
    }

    /// Requests in flight at both endpoints.
    pub(super) fn in_flight(&self) -> u32 {
        let view = self.door.routing.view.load();
        let upstreams = &view.as_ref().expect("a view").pools[0].upstreams;
        upstreams.iter().map(|upstream| upstream.in_flight()).sum()
    }

    /// What was reported of requests, in order.
    pub(super) fn events(&mut self) -> Vec<&'static str> {
        let mut events = Vec::new();
        while let Ok(report) = self.reports.try_recv() {
            events.push(match report.event {
                Some(v1::report::Event::Started(_)) => "started",
                Some(v1::report::Event::FirstByte(_)) => "first byte",
                Some(v1::report::Event::Finished(_)) => "finished",
                _ => "other",
            });
        }
        events
    }
}

impl Gateway {
    pub(super) fn send(&self, request: Kind) {
        self.send_message(ProcessingRequest {
            request: Some(request),
            ..ProcessingRequest::default()
        });
    }

    pub(super) fn send_message(&self, message: ProcessingRequest) {
        self.sent.try_send(Ok(message)).expect("there is room");
    }

    /// The head of a chat request, from a gateway with these modes.
    pub(super) fn open(&self, modes: Option<(BodySendMode, bool)>) {
        self.send_message(ProcessingRequest {
            request: Some(head("POST", "/v1/chat/completions", false)),
            protocol_config: modes.map(|(mode, early)| ProtocolConfiguration {
                request_body_mode: mode.into(),
                response_body_mode: mode.into(),
                send_body_without_waiting_for_header_response: early,
            }),
            ..ProcessingRequest::default()
        });
    }

    pub(super) async fn next(&mut self) -> ProcessingResponse {
        let message = self.answers.next().await.expect("an answer");
        message.expect("no error")
    }

    /// The next message is this one's code and details.
    pub(super) async fn immediate(&mut self) -> (i32, String) {
        let Some(Answer::ImmediateResponse(answer)) = self.next().await.response else {
            panic!("an answer for the client")
        };
        (answer.status.expect("a status").code, answer.details)
    }
}

pub(super) fn head(method: &str, path: &str, end_of_stream: bool) -> Kind {
    Kind::RequestHeaders(HttpHeaders {
        headers: Some(wire(&[
            (":method", method),
            (":path", path),
            (":authority", "models.example"),
            ("x-prefiller-host-port", "10.6.6.6:1"),
        ])),
        end_of_stream,
    })
}

pub(super) fn wire(fields: &[(&str, &str)]) -> WireHeaders {
    let field = |(key, value): &(&str, &str)| WireHeader {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
    };
    WireHeaders {
        headers: fields.iter().map(field).collect(),
    }
}

pub(super) fn body(bytes: &[u8], end_of_stream: bool) -> HttpBody {
    HttpBody {
        body: Bytes::copy_from_slice(bytes),
        end_of_stream,
    }
}

pub(super) fn answer_head(status: &str, end_of_stream: bool) -> Kind {
    Kind::ResponseHeaders(HttpHeaders {
        headers: Some(wire(&[
            (":status", status),
            ("content-type", "application/json"),
        ])),
        end_of_stream,
    })
}

/// The destination in the head or the body of this message.
pub(super) fn destination(message: &ProcessingResponse) -> Option<String> {
    let mutation = match message.response.as_ref()? {
        Answer::RequestHeaders(head) => head.response.as_ref()?.header_mutation.as_ref()?,
        Answer::RequestBody(body) => body.response.as_ref()?.header_mutation.as_ref()?,
        _ => return None,
    };
    let headers = mutation
        .set_headers
        .iter()
        .filter_map(|set| set.header.as_ref());
    let mut found = headers.filter(|header| header.key == "x-gateway-destination-endpoint");
    Some(String::from_utf8_lossy(&found.next()?.raw_value).into_owned())
}

pub(super) fn mutation(message: ProcessingResponse) -> Option<Mutation> {
    match message.response? {
        Answer::RequestBody(body) | Answer::ResponseBody(body) => {
            body.response?.body_mutation?.mutation
        }
        _ => None,
    }
}
