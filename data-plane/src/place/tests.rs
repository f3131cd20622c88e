//! Placing requests as a door without a server does.

use hermes_core::{
    placement::Placement,
    policy::{PoolPolicy, ProxySettings, Strategy},
    route::{PathMatch, Route, RouteMatch, RouteRule},
    snapshot::{Endpoint, EndpointId, Pool, PoolSpec, Snapshot},
};
use hermes_proto::v1;
use http_body_util::Full;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::*;

/// A proxy's state without any server, and what it reports.
struct Door {
    placer: Placer,
    reports: mpsc::Receiver<v1::Report>,
}

impl Door {
    /// A pool `chat` with one endpoint, for the model `m`; one request at once.
    fn open() -> Self {
        Self::with_routes(Vec::new())
    }

    /// The same, with routes on the usual port.
    fn with_routes(routes: Vec<Route>) -> Self {
        let endpoint = Endpoint {
            id: EndpointId(7),
            name: "engine".into(),
            role: hermes_core::snapshot::Role::default(),
            group: None,
            pairing: hermes_core::snapshot::PairingFacts::default(),
            address: "http://127.0.0.1:1".parse().expect("an address"),
        };
        let pool = Pool {
            spec: Arc::new(PoolSpec::new(
                "chat",
                PoolPolicy {
                    strategy: Strategy::RoundRobin,
                    ..PoolPolicy::default()
                },
            )),
            endpoints: vec![Arc::new(endpoint)].into(),
            models: hermes_core::collection::Collection::default(),
        };
        let snapshot = Snapshot {
            pools: vec![Arc::new(pool)].into(),
            routes: routes.into_iter().map(Arc::new).collect(),
            settings: Arc::new(ProxySettings {
                max_concurrent: 1,
                ..ProxySettings::default()
            }),
            ..Snapshot::default()
        };
        let door = Self::without_a_view();
        let workers = std::num::NonZeroUsize::MIN;
        let view = RoutingView::build(Arc::new(snapshot), None, &door.placer.metrics, workers);
        door.placer.routing.view.store(Some(Arc::new(view)));
        door
    }

    fn without_a_view() -> Self {
        let metrics = Arc::new(ProxyMetrics::register(&mut Registry::default()));
        let (reporter, reports) = Reporter::new();
        let sinks = (Arc::new(reporter), Arc::new(AccessLog::default()));
        let limits = (Drain::default(), AdmissionLimit::new(None));
        let placer = Placer::new(RoutingState::default(), 1, sinks, metrics, limits);
        Self { placer, reports }
    }

    async fn place(&self, request: Request<Full<Bytes>>) -> Result<Placed, Rejection> {
        self.place_from(None, request).await
    }

    async fn place_from(
        &self,
        entry: Option<ClientEntry>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Placed, Rejection> {
        let client = SocketAddr::from(([127, 0, 0, 1], 1));
        let client = (client, ServerScheme::Http);
        let start = self.placer.arrive(&mut request, client).start;
        let door = DoorRequest {
            request,
            start,
            entry: entry.as_ref(),
            rules: DoorRules {
                pairs: DoorPairs::ThroughDecode,
                subset: None,
                picker: None,
                asks_pickers: true,
            },
        };
        self.placer.place(door).await
    }
}

fn chat() -> Request<Full<Bytes>> {
    let body = Bytes::from_static(br#"{"model":"m","messages":[]}"#);
    let request = Request::post("/v1/chat/completions");
    request.body(Full::new(body)).expect("valid")
}

fn code(result: Result<Placed, Rejection>) -> Option<&'static str> {
    result.err().map(|rejection| rejection.reply.code())
}

#[tokio::test]
async fn a_request_is_placed_without_a_server_and_is_counted_until_it_is_dropped() {
    let mut door = Door::open();
    let Ok(Placed::Request(placed)) = door.place(chat()).await else {
        panic!("an endpoint can serve it")
    };
    let endpoint = placed.selection.ranked.first().and_then(Placement::one);
    let id = endpoint.map(|endpoint| endpoint.upstream.endpoint.id);
    assert_eq!(id, Some(EndpointId(7)));
    assert_eq!(code(door.place(chat()).await), Some("rate_limit_exceeded"));
    assert!(door.reports.try_recv().is_err(), "nothing was sent");

    drop(placed);
    let report = door.reports.try_recv().expect("its end is reported");
    let Some(v1::report::Event::Finished(finished)) = report.event else {
        panic!("{report:?}")
    };
    assert_eq!((report.request, finished.endpoint), (1, None));
    assert!(matches!(door.place(chat()).await, Ok(Placed::Request(_))));
}

#[tokio::test]
async fn routes_are_followed_by_requests_of_a_port_and_not_by_those_of_another_door() {
    let rule = RouteRule {
        matches: vec![RouteMatch {
            path: PathMatch::Prefix("/only".into()),
            ..RouteMatch::default()
        }],
        ..RouteRule::default()
    };
    let door = Door::with_routes(vec![Route {
        name: "only".into(),
        listeners: Vec::new(),
        hostnames: Vec::new(),
        created: 0,
        rules: vec![rule],
    }]);
    let usual = Some(ClientEntry::USUAL);
    assert_eq!(
        code(door.place_from(usual, chat()).await),
        Some("route_not_found")
    );
    assert!(matches!(
        door.place_from(None, chat()).await,
        Ok(Placed::Request(_))
    ));
    let without_backends = Request::get("/only/x")
        .body(Full::default())
        .expect("valid");
    let placed = door.place_from(usual, without_backends).await;
    assert_eq!(code(placed), Some("invalid_backend"));
}

#[tokio::test]
async fn a_list_of_models_is_answered_and_needs_no_endpoint() {
    let door = Door::open();
    let request = Request::get("/v1/models").body(Full::default());
    let placed = door.place(request.expect("valid")).await;
    let Ok(Placed::Answered(body)) = placed else {
        panic!("the proxy knows it")
    };
    assert!(body.starts_with(b"{"), "{body:?}");
}

#[tokio::test]
async fn a_rejection_carries_the_api_as_soon_as_it_is_known() {
    let unsynced = Door::without_a_view();
    let rejection = unsynced.place(chat()).await.err().expect("no view");
    assert_eq!(
        (rejection.reply, rejection.api),
        (LocalReply::NotReady, None)
    );

    let request = Request::post("/v1/messages").body(Full::from("["));
    let placed = Door::open().place(request.expect("valid")).await;
    let rejection = placed.err().expect("not JSON");
    assert_eq!(rejection.api, Some(Api::Messages));
    assert_eq!(rejection.reply.code(), "invalid_body");
}
