//! Conductors of both dialects against real servers: hits if they work, and neither hits nor failed
//! requests if not.

use std::{sync::Arc, time::Duration};

use hermes_bench::fleet::{Fleet, Scene, instant};
use hermes_control_plane::cache_sources::kv_manager::{
    Conductor, Dialect, Encoding, KvManagerSettings, Lookup, LookupOutcome,
};
use hermes_core::query::{CacheHit, CachedTokens};
use hermes_engine_sim::{EngineConfig, EngineHandle, Prompt};
use hermes_testkit::conductor::ConductorServer;
use hermes_testkit::conductor::Dialect as Spoken;
use hermes_testkit::conductor::{Fault, Held, Query};
use tokio::time::timeout;

use super::{Asker, PATIENCE, lookup, settings};
use crate::{client::metric, conversation::talk};

const SPOKEN: [(Spoken, Encoding); 2] = [
    (Spoken::Json, Encoding::Json),
    (Spoken::Msgpack, Encoding::Msgpack),
];

fn asker(server: &ConductorServer, encoding: Encoding, budget: Duration) -> Asker {
    let conductor = Conductor {
        encoding,
        block_size: Some(16),
        ..Conductor::default()
    };
    Asker::with(KvManagerSettings {
        dialect: Dialect::Conductor(Box::new(conductor)),
        budget,
        cache: Duration::ZERO,
        ..settings(&format!("{}/query", server.url()))
    })
}

/// A prompt of ten whole blocks and a rest.
fn question() -> Lookup {
    Lookup {
        token_ids: Some((0..165).collect()),
        cache_salt: Some("t1".into()),
        lora: Some("sql".into()),
        ..lookup()
    }
}

fn knows(query: &Query) -> Vec<(String, Held)> {
    assert_eq!(
        (&*query.model, &*query.tenant, &*query.lora, &*query.salt),
        ("m", "default", "sql", "t1")
    );
    assert_eq!(
        (query.block_size, query.token_ids.len()),
        (16, 160),
        "whole blocks alone"
    );
    vec![
        (
            "10.0.0.1:8000".into(),
            Held {
                gpu: 32,
                cpu: 48,
                disk: 64,
            },
        ),
        (
            "chat-2".into(),
            Held {
                gpu: 160,
                cpu: 160,
                disk: 160,
            },
        ),
        (
            "elsewhere".into(),
            Held {
                gpu: 16,
                cpu: 16,
                disk: 16,
            },
        ),
    ]
}

#[tokio::test]
async fn reported_blocks_become_hits_by_tier() {
    for (spoken, encoding) in SPOKEN {
        let server = ConductorServer::start(spoken, knows).await.expect("a port");
        let asker = asker(&server, encoding, PATIENCE);
        let hits = asker.manager.lookup(question()).await;
        let cached: Vec<(u64, CachedTokens)> = hits
            .iter()
            .map(
                |CacheHit {
                     endpoint, cached, ..
                 }| (endpoint.0, *cached),
            )
            .collect();
        let expected = [
            (
                1,
                CachedTokens {
                    gpu: 32,
                    host: 48,
                    disk: 64,
                },
            ),
            (2, CachedTokens::on_gpu(160)),
        ];
        assert_eq!(cached, expected, "{spoken:?}");
        assert_eq!(asker.metrics.count(LookupOutcome::Hit), 1);
    }
}

#[tokio::test]
async fn every_fault_yields_no_hits_and_is_counted_by_name() {
    let faults = [
        (Fault::Status(500), LookupOutcome::Status(500)),
        (Fault::Garbage, LookupOutcome::Garbage),
        (Fault::FalseMatches, LookupOutcome::Implausible),
        (Fault::Refuse, LookupOutcome::Broken),
    ];
    for (spoken, encoding) in SPOKEN {
        for (fault, outcome) in faults {
            let server = ConductorServer::start(spoken, knows).await.expect("a port");
            let asker = asker(&server, encoding, PATIENCE);
            server.set_fault(fault);
            assert_eq!(
                asker.ask_about(question()).await,
                [],
                "{spoken:?} {fault:?}"
            );
            assert_eq!(asker.metrics.count(outcome), 1, "{spoken:?} {fault:?}");
            server.set_fault(Fault::None);
            assert_eq!(
                asker.ask_about(question()).await,
                [(1, 32), (2, 160)],
                "{spoken:?} {fault:?} is over"
            );
        }
    }
}

#[tokio::test]
async fn a_hanging_conductor_delays_a_request_by_the_lookup_timeout_at_most() {
    for (spoken, encoding) in SPOKEN {
        let server = ConductorServer::start(spoken, knows).await.expect("a port");
        server.set_fault(Fault::Hang);
        let asker = asker(&server, encoding, Duration::from_millis(50));
        assert_eq!(
            timeout(PATIENCE / 4, asker.ask_about(question()))
                .await
                .expect("in time"),
            []
        );
        assert_eq!(asker.metrics.count(LookupOutcome::Timeout), 1);
    }
}

#[tokio::test]
async fn a_conductor_gets_no_lookup_without_tokens() {
    let server = ConductorServer::start(Spoken::Json, knows)
        .await
        .expect("a port");
    let asker = asker(&server, Encoding::Json, PATIENCE);
    assert_eq!(
        asker
            .ask_about(Lookup {
                token_ids: None,
                ..question()
            })
            .await,
        []
    );
    assert_eq!(
        (
            server.queries(),
            asker.metrics.count(LookupOutcome::NoTokens)
        ),
        (0, 1)
    );
}

/// Four engines that tokenize for themselves, and a conductor that knows by token ids what they
/// hold.
async fn fleet(spoken: Spoken) -> (Fleet, ConductorServer) {
    let engines: Arc<std::sync::OnceLock<Vec<Arc<EngineHandle>>>> = Arc::default();
    let known = Arc::clone(&engines);
    let server = ConductorServer::start(spoken, move |query| {
        let held = |engine: &Arc<EngineHandle>| {
            let tokens =
                engine.held_prefix_tokens(&query.model, Prompt::Tokens(&query.token_ids)) as u32;
            (
                engine.addr().to_string(),
                Held {
                    gpu: tokens,
                    cpu: tokens,
                    disk: tokens,
                },
            )
        };
        known.get().into_iter().flatten().map(held).collect()
    })
    .await
    .expect("a port");
    let protocol = if spoken == Spoken::Json {
        "conductor"
    } else {
        "conductor-msgpack"
    };
    let engine = EngineConfig {
        block_size: 16,
        ..instant()
    };
    let mut scene = Scene {
        engines: vec![engine; 4],
        ..Scene::of(0, "{name: hermes-classic, weights: {inFlight: 0}}")
    };
    scene.pool.push_str(&format!(
        "  metrics: {{interval: 1s}}\n  tokenizer: {{engine: true, timeout: 5s}}\n  kvManager: {{protocol: {protocol}, url: '{}', lookupTimeout: 2s, conductor: {{blockSize: 16}}}}\n",
        server.url()
    ));
    let fleet = scene.start().await.expect("starts");
    engines.set(fleet.engines.clone()).expect("set once");
    (fleet, server)
}

#[tokio::test]
async fn conversations_return_to_the_engine_whose_blocks_the_conductor_reports() {
    for (spoken, _) in SPOKEN {
        let (fleet, server) = fleet(spoken).await;
        let (prompt, cached) = talk(&fleet, 5, 5).await;
        assert!(
            cached as f64 > 0.6 * prompt as f64,
            "{spoken:?}: {cached} of {prompt} tokens"
        );
        assert!(server.queries() > 0);
        let admin = format!(
            "http://{}",
            fleet.control_planes[0].bound.admin.expect("an admin port")
        );
        let made = metric(
            &admin,
            "hermes_tokenizer_prompts_total{outcome=\"tokenized\"}",
        )
        .await;
        assert_eq!(made, 25.0, "each prompt is another one");
    }
}

#[tokio::test]
async fn no_fault_of_a_conductor_fails_a_request() {
    for (spoken, _) in SPOKEN {
        let (fleet, server) = fleet(spoken).await;
        for fault in [
            Fault::Status(500),
            Fault::Garbage,
            Fault::FalseMatches,
            Fault::Refuse,
            Fault::Hang,
        ] {
            server.set_fault(fault);
            talk(&fleet, 2, 1).await;
        }
        drop(server);
        talk(&fleet, 2, 2).await;
    }
}
