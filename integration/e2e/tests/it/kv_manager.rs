//! The KV manager's client against a real server: hits if the server works, and neither hits nor
//! delays if it does not.

mod conductor;
mod register;
mod sharing;
mod simulated;

use std::time::Duration;

use hermes_control_plane::cache_sources::kv_manager::{
    Dialect, KvManager, KvManagerMetrics, KvManagerSettings, Lookup, LookupCandidate,
    LookupOutcome, MAX_IN_FLIGHT, Text,
};
use hermes_core::{query::CacheHit, snapshot::EndpointId};
use hermes_engine_sim::kv_manager::{Fault, KvManagerServer, Prompt};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::time::{Instant, timeout};

/// Far over any budget, for what must end by itself.
const PATIENCE: Duration = Duration::from_secs(20);

struct Asker {
    manager: KvManager,
    metrics: KvManagerMetrics,
}

/// A match-sort manager at this URL, with the limits that the configuration has by default.
fn settings(url: &str) -> KvManagerSettings {
    KvManagerSettings {
        dialect: Dialect::default(),
        url: url.into(),
        timeout: Duration::from_secs(10),
        budget: Duration::from_millis(50),
        cache: Duration::from_millis(500),
    }
}

impl Asker {
    /// Nothing is remembered, so that every question is asked.
    fn new(url: &str, budget: Duration) -> Self {
        Self::with(KvManagerSettings {
            budget,
            cache: Duration::ZERO,
            ..settings(&format!("{url}/match_sort"))
        })
    }

    fn with(settings: KvManagerSettings) -> Self {
        hermes_runtime::crypto::install_default_crypto();
        let metrics = KvManagerMetrics::register(&mut Registry::default());
        let manager = KvManager::new(settings, metrics.clone()).expect("a valid URL");
        Self { manager, metrics }
    }

    async fn ask(&self) -> Vec<(u64, u32)> {
        self.ask_about(lookup()).await
    }

    async fn ask_about(&self, lookup: Lookup) -> Vec<(u64, u32)> {
        let hits = timeout(PATIENCE, self.manager.lookup(lookup))
            .await
            .expect("a lookup ends by itself");
        hits.iter()
            .map(
                |CacheHit {
                     endpoint, cached, ..
                 }| (endpoint.0, cached.gpu),
            )
            .collect()
    }
}

fn lookup() -> Lookup {
    let candidate = |id: u64| LookupCandidate {
        endpoint: EndpointId(id),
        authority: format!("10.0.0.{id}:8000").into(),
        name: format!("ai/chat-{id}").into(),
    };
    Lookup {
        model: "m".into(),
        text: Text::Messages(r#"[{"role":"user","content":"hello"}]"#.into()),
        candidates: (1..=3).map(candidate).collect(),
        prompt_tokens: 1_000,
        ..Lookup::default()
    }
}

/// A question about another prompt than any other number's.
fn numbered(number: usize) -> Lookup {
    Lookup {
        text: Text::Prompt(format!("\"prompt number {number}\"").into()),
        ..lookup()
    }
}

/// A manager that knows that the first candidate holds half of every prompt.
async fn server() -> KvManagerServer {
    let know = |question: &hermes_engine_sim::kv_manager::Question| {
        vec![(question.candidates[0].clone(), 0.5)]
    };
    KvManagerServer::start(know).await.expect("a port")
}

#[tokio::test]
async fn the_lookup_has_messages_and_candidates_and_its_response_becomes_hits() {
    let know = |question: &hermes_engine_sim::kv_manager::Question| {
        assert_eq!(question.model, "m");
        assert_eq!(
            question.prompt,
            Prompt::Messages(json!([{"role": "user", "content": "hello"}]))
        );
        assert_eq!(
            question.candidates,
            ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]
        );
        vec![
            ("10.0.0.2:8000".into(), 0.75),
            ("chat-3".into(), 0.25),
            ("10.0.0.1".into(), 0.0),
            ("10.9.9.9".into(), 1.0),
        ]
    };
    let server = KvManagerServer::start(know).await.expect("a port");
    let asker = Asker::new(&server.url(), PATIENCE);
    assert_eq!(asker.ask().await, [(2, 750), (3, 250)]);
    assert_eq!(asker.metrics.count(LookupOutcome::Hit), 1);
}

#[tokio::test]
async fn every_fault_yields_no_hits_and_is_counted_by_name() {
    let faults = [
        (Fault::Status(500), LookupOutcome::Status(500)),
        (Fault::Garbage, LookupOutcome::Garbage),
        (Fault::Empty, LookupOutcome::Garbage),
        (Fault::Refuse, LookupOutcome::Broken),
    ];
    for (fault, outcome) in faults {
        let server = server().await;
        let asker = Asker::new(&server.url(), PATIENCE);
        server.set_fault(fault);
        assert_eq!(asker.ask().await, [], "{fault:?}");
        assert_eq!(asker.metrics.count(outcome), 1, "{fault:?}");

        server.set_fault(Fault::None);
        assert_eq!(asker.ask().await, [(1, 500)], "{fault:?} is over");
    }
}

#[tokio::test]
async fn a_hanging_manager_delays_a_request_by_the_lookup_timeout_at_most() {
    let server = server().await;
    server.set_fault(Fault::Hang);
    let asker = Asker::new(&server.url(), Duration::from_millis(50));
    let started = Instant::now();
    assert_eq!(asker.ask().await, []);
    assert!(started.elapsed() < PATIENCE / 4, "{:?}", started.elapsed());
    assert_eq!(asker.metrics.count(LookupOutcome::Timeout), 1);
}

#[tokio::test]
async fn a_dead_manager_is_ejected_and_used_again_after_recovery() {
    let server = server().await;
    let asker = Asker::new(&server.url(), PATIENCE);
    server.set_fault(Fault::Status(500));
    for _ in 0..20 {
        assert_eq!(asker.ask().await, []);
    }
    assert!(
        server.questions() < 20,
        "it was asked {} times",
        server.questions()
    );
    assert!(asker.metrics.count(LookupOutcome::Open) > 0);

    server.set_fault(Fault::None);
    let found = async {
        while asker.ask().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, found)
        .await
        .expect("a trial is let through after the time out");
}

#[tokio::test]
async fn lookups_over_the_concurrency_limit_are_skipped() {
    let server = server().await;
    server.set_fault(Fault::Hang);
    let asker = Asker::new(&server.url(), Duration::from_secs(2));
    let asked = futures::future::join_all(
        (0..MAX_IN_FLIGHT + 10).map(|number| asker.ask_about(numbered(number))),
    );
    assert!(asked.await.iter().all(Vec::is_empty));
    assert_eq!(asker.metrics.count(LookupOutcome::Saturated), 10);
}

#[tokio::test]
async fn a_request_that_goes_away_in_a_trial_leaves_the_trial_to_the_next() {
    let server = server().await;
    let asker = Asker::new(&server.url(), PATIENCE);
    server.set_fault(Fault::Status(500));
    while asker.metrics.count(LookupOutcome::Open) == 0 {
        asker.ask().await;
    }
    let asked = server.questions();
    server.set_fault(Fault::Hang);
    // Asked again and again, until one is the trial; then its client goes away.
    let trial = async {
        loop {
            asker.ask().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let sent = async {
        while server.questions() == asked {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(
        PATIENCE,
        futures::future::select(Box::pin(trial), Box::pin(sent)),
    )
    .await
    .expect("a trial is sent");

    server.set_fault(Fault::None);
    assert_eq!(asker.ask().await, [(1, 500)]);
}

#[tokio::test]
async fn a_manager_without_a_listener_is_unreachable() {
    let url = server().await.url();
    let asker = Asker::new(&url, PATIENCE);
    let refused = async {
        while asker.metrics.count(LookupOutcome::Refused) == 0 {
            asker.ask().await;
        }
    };
    timeout(PATIENCE, refused)
        .await
        .expect("the port is closed");
}
