//! Exchanges with endpoints over real sockets.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use hermes_core::{
    policy::{PoolPolicy, Strategy},
    snapshot::{Endpoint, EndpointId, Pool, PoolSpec, Snapshot},
};
use hermes_proto::v1::{self, report::Event};
use hermes_runtime::shutdown::Drain;
use http::{Method, Request};
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Instant,
};

use super::{
    forward::Forwarder,
    guard::{RequestGuard, RequestStart},
    relay::relay,
    trace::RequestTrace,
};
use crate::{
    choose::{SelectedEndpoint, Selection},
    link::report::Reporter,
    request::{admission::AdmissionLimit, api, inference_request::InferenceRequest},
    telemetry::{access_log::AccessLog, metrics::Metrics},
    view::{RoutingPool, RoutingView},
};

/// A pool whose endpoints are at these addresses, and what a forwarder needs.
struct Exchange {
    pool: Arc<RoutingPool>,
    forwarder: Forwarder,
    reporter: Arc<Reporter>,
    reports: mpsc::Receiver<v1::Report>,
}

impl Exchange {
    fn with(endpoints: &[SocketAddr]) -> Self {
        let policy = PoolPolicy {
            strategy: Strategy::RoundRobin,
            ..PoolPolicy::default()
        };
        let endpoint = |(index, address): (usize, &SocketAddr)| {
            Arc::new(Endpoint {
                id: EndpointId(index as u64),
                name: format!("endpoint-{index}").into(),
                role: Default::default(),
                group: None,
                url: format!("http://{address}").into(),
            })
        };
        let pool = Arc::new(Pool {
            spec: Arc::new(PoolSpec {
                name: "chat".into(),
                models: Vec::new(),
                policy,
            }),
            endpoints: endpoints.iter().enumerate().map(endpoint).collect(),
        });
        let snapshot = Arc::new(Snapshot {
            pools: vec![pool],
            ..Snapshot::default()
        });
        let metrics = Arc::new(Metrics::register(&mut Registry::default()));
        let view = RoutingView::build(snapshot, None, &metrics);
        let (reporter, reports) = Reporter::new();
        Self {
            pool: Arc::clone(&view.pools[0]),
            forwarder: Forwarder { metrics },
            reporter: Arc::new(reporter),
            reports,
        }
    }

    fn guard(&self) -> RequestGuard {
        let start = RequestStart {
            id: 1,
            at: Instant::now(),
            trace: RequestTrace::begin(&Request::new(())),
        };
        let permit = AdmissionLimit::default().try_acquire(1).expect("free");
        RequestGuard::open(
            start,
            Arc::clone(&self.pool),
            None,
            (Arc::clone(&self.reporter), Arc::new(AccessLog::default())),
            (permit, Drain::default().track()),
        )
    }

    /// Every endpoint of the pool, in order.
    fn selection(&self) -> Selection {
        let endpoint = |upstream| SelectedEndpoint {
            upstream: Arc::clone(upstream),
            cached_tokens: 0,
            source: None,
        };
        Selection {
            ranked: self.pool.upstreams.iter().map(endpoint).collect(),
            ..Selection::default()
        }
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.reports.try_recv().ok()?.event).collect()
    }
}

fn request() -> InferenceRequest {
    let (head, ()) = Request::post("/v1/chat/completions")
        .body(())
        .expect("valid")
        .into_parts();
    let route = api::route(&Method::POST, "/v1/chat/completions", &[""; 0]).expect("served");
    InferenceRequest::parse(route, head, &Bytes::from_static(br#"{"messages":[]}"#)).expect("valid")
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Reads one request with this file's body; false when the connection was closed instead.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut received = Vec::new();
    while !received.ends_with(br#"{"messages":[]}"#) {
        if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn a_held_answer_that_is_passed_on_is_accounted_to_its_own_endpoint() {
    let (overloaded, address) = listen().await;
    let (gone, unreachable) = listen().await;
    drop(gone);
    tokio::spawn(async move {
        let (mut stream, _) = overloaded.accept().await.expect("a connection");
        assert!(read_request(&mut stream).await);
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
        stream.write_all(answer).await.expect("open");
        stream.read_u8().await.expect_err("no second request");
    });
    let mut exchange = Exchange::with(&[address, unreachable]);
    let (request, selection) = (request(), exchange.selection());
    let mut guard = exchange.guard();
    let answer = exchange
        .forwarder
        .forward(&request, &exchange.pool, &selection, &mut guard)
        .await
        .unwrap_or_else(|reply| panic!("the 503 is passed on, not {reply}"));
    assert_eq!(answer.head.status, 503);
    let timeouts = exchange.pool.pool.spec.policy.timeouts;
    drop(relay(answer, guard, &request, timeouts, None));
    let finished: Vec<Option<u64>> = exchange
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Finished(finished) => Some(finished.endpoint),
            _ => None,
        })
        .collect();
    assert_eq!(finished, [Some(0)], "the endpoint that answered 503");
}
