//! Reports of one proxy, and what they leave in the pools.

use hermes_core::{
    policy::{PoolPolicy, Strategy},
    snapshot::{Endpoint, Pool, PoolSpec, Role, Snapshot},
};
use prometheus_client::registry::Registry;

use super::*;
use crate::pools::PoolResources;

const PROXY: ProxyId = ProxyId(1);
const TOKENS: u64 = 1_000;

/// The pool `chat`, with one endpoint.
fn snapshot() -> Snapshot {
    let address = "http://10.0.0.1:8000".parse().expect("an address");
    let endpoint = Arc::new(Endpoint {
        id: EndpointId::of("chat", &address, ""),
        name: "one".into(),
        address,
        role: Role::Aggregate,
        group: None,
        pairing: hermes_core::snapshot::PairingFacts::default(),
    });
    let policy = PoolPolicy {
        strategy: Strategy::LeastRequest,
        ..PoolPolicy::default()
    };
    let pool = Pool {
        spec: Arc::new(PoolSpec::new("chat", policy)),
        models: hermes_core::collection::Collection::default(),
        endpoints: vec![endpoint].into(),
    };
    Snapshot {
        pools: vec![Arc::new(pool)].into(),
        ..Snapshot::default()
    }
}

/// The schedulers, the endpoint, and the reports of the proxy.
fn reader() -> (Arc<PoolDirectory>, u64, ReportReader) {
    let metrics = ControlPlaneMetrics::register(&mut Registry::default());
    let pools = Arc::new(PoolDirectory::new(1, metrics.clone()));
    let snapshot = snapshot();
    pools.apply(&snapshot, |_| PoolResources::default());
    let endpoint = snapshot.pools[0].endpoints[0].id.0;
    let reader = ReportReader::new(PROXY, Arc::clone(&pools), metrics);
    (pools, endpoint, reader)
}

fn report(request: u64, event: Event) -> v1::Reports {
    leg_report(request, LegId::MAIN, event)
}

fn leg_report(request: u64, leg: LegId, event: Event) -> v1::Reports {
    v1::Reports {
        reports: vec![v1::Report {
            request,
            leg: leg.number(),
            event: Some(event),
        }],
    }
}

#[tokio::test]
async fn a_first_byte_counts_beyond_the_requests_that_are_remembered() {
    let (pools, endpoint, mut reader) = reader();
    let open = |request| v1::OpenRequest {
        request,
        leg: 0,
        endpoint,
        uncached_tokens: 0,
        answered: true,
    };
    let requests = (0..MAX_OPEN as u64).map(open).collect();
    reader.open(v1::OpenRequests { requests });

    let last = MAX_OPEN as u64;
    let pending = || {
        let view = serde_json::to_value(pools.view()).expect("JSON");
        view[0]["endpoints"][0]["load"]["pending_tokens"].as_u64()
    };
    reader.reports(report(
        last,
        Event::Started(v1::Started {
            endpoint,
            uncached_tokens: TOKENS,
            non_streaming: false,
        }),
    ));
    assert_eq!(pending(), Some(TOKENS));
    reader.reports(report(
        last,
        Event::FirstByte(v1::FirstByte { ttft_us: 1_000 }),
    ));
    assert_eq!(pending(), Some(0), "its prompt is computed");
}

#[tokio::test]
async fn a_prefill_that_ends_its_request_counts_once_against_its_endpoint() {
    let (pools, endpoint, mut reader) = reader();
    let failed = v1::RequestOutcome::Failed as i32;
    // One less than the failures in a row that take an endpoint out.
    for request in 0..2 {
        let finished = Event::Finished(v1::Finished {
            endpoint: Some(endpoint),
            outcome: failed,
            ..v1::Finished::default()
        });
        let attempt_failed = Event::AttemptFailed(v1::AttemptFailed {
            endpoint,
            outcome: failed,
            ..v1::AttemptFailed::default()
        });
        reader.reports(leg_report(request, LegId::PREFILL, attempt_failed));
        reader.reports(leg_report(request, LegId::PREFILL, finished));
        reader.reports(report(request, finished));
    }
    assert!(
        reader.blamed.is_empty(),
        "nothing is kept of requests that ended"
    );
    let view = serde_json::to_value(pools.view()).expect("JSON");
    assert_eq!(view[0]["endpoints"][0]["load"]["health"]["state"], "up");
}
