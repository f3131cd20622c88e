//! What probes ask of an endpoint's part in pairs.

use std::num::NonZeroU16;

use hermes_core::snapshot::Role;

use super::*;

const QUERY: &str = r#"{"0":{"engine_id":"first","worker_addr":{}}}"#;

impl Server {
    /// It is its own bootstrap server.
    fn mooncake(&self) -> ProbeTarget {
        ProbeTarget {
            pairing: Some(PairingQuestion::Mooncake {
                port: NonZeroU16::new(self.address.port()).expect("a port"),
            }),
            ..self.target(Some("/metrics"))
        }
    }

    fn sglang(&self) -> ProbeTarget {
        ProbeTarget {
            pairing: Some(PairingQuestion::Sglang),
            ..self.target(Some("/metrics"))
        }
    }
}

fn page(started: u32) -> Reply {
    ok(&format!("{PAGE}process_start_time_seconds {started}\n"))
}

/// The name of the only rank, as the next result that has news states it.
async fn named(observations: &mut mpsc::Receiver<ProbeResult>) -> Option<String> {
    let news = next_where(observations, |result| result.pairing.is_some()).await;
    let ranks = news.pairing.expect("it has news").ranks?;
    Some(ranks[0].engine_id.to_string())
}

#[tokio::test]
async fn the_names_of_ranks_are_asked_for_until_there_are_some_and_again_after_a_start() {
    let server = Server::start(&[("/metrics", page(1)), ("/query", ok("{}"))]).await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.mooncake()]);
    assert_eq!(
        named(&mut observations).await,
        None,
        "no rank has registered"
    );
    server.script("/query", ok(QUERY));
    assert_eq!(named(&mut observations).await.as_deref(), Some("first"));
    let asked = server.asked("/query");
    next(&mut observations).await;
    next(&mut observations).await;
    assert_eq!(server.asked("/query"), asked, "not in each turn");

    server.script("/query", ok(&QUERY.replace("first", "second")));
    server.script("/metrics", page(2));
    assert_eq!(
        named(&mut observations).await.as_deref(),
        Some("second"),
        "its process has another start time"
    );
}

#[tokio::test]
async fn an_engine_that_refuses_connections_has_no_names_any_more() {
    let server = Server::start(&[("/metrics", page(1)), ("/query", ok(QUERY))]).await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.mooncake()]);
    assert_eq!(named(&mut observations).await.as_deref(), Some("first"));
    drop(server);
    assert_eq!(named(&mut observations).await, None);
}

#[tokio::test]
async fn a_bootstrap_server_that_hangs_or_is_broken_leaves_its_names_known() {
    let server = Server::start(&[("/metrics", page(1)), ("/query", ok(QUERY))]).await;
    let (mut collector, mut observations, registry) = collector();
    collector.set(vec![server.mooncake()]);
    assert_eq!(named(&mut observations).await.as_deref(), Some("first"));
    server.script("/query", ok("not JSON"));
    server.script("/metrics", page(2));
    timeout(Duration::from_secs(10), async {
        while server.asked("/query") < 3 {
            assert_eq!(next(&mut observations).await.pairing, None);
        }
    })
    .await
    .expect("it is asked again");
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    assert!(
        text.contains(
            r#"hermes_scrape_failures_total{target="pairing",reason="invalid_response"}"#
        ),
        "{text}"
    );
}

#[tokio::test]
async fn sglang_states_its_role_at_the_page_that_its_release_has() {
    let info = r#"{"disaggregation_mode":"decode"}"#;
    for path in ["/server_info", "/get_server_info"] {
        let server = Server::start(&[("/metrics", page(1)), (path, ok(info))]).await;
        let (mut collector, mut observations, _registry) = collector();
        collector.set(vec![server.sglang()]);
        let first = next(&mut observations).await;
        assert!(first.outcome.is_ok());
        let stated = first.pairing.expect("asked at first contact");
        assert_eq!(stated.role, Some(Role::Decode), "{path}");
    }
}

#[tokio::test]
async fn an_engine_without_the_page_states_nothing() {
    let server = Server::start(&[("/metrics", page(1))]).await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.sglang()]);
    let first = next(&mut observations).await;
    assert_eq!(first.pairing, Some(PairingStatement::default()));
}
