//! Engines that fail before the first byte: the request is retried, and fails only if all engines
//! do.

use hermes_bench::fleet::{Fleet, Scene};
use hermes_engine_sim::Fault;

use crate::{
    client::{chat, eventually, json_of, metric, pieces, send},
    recorder::{Front, Recorder},
};

async fn two_engines(extra: &str) -> Fleet {
    let mut scene = Scene::of(2, "round-robin");
    scene.pool.push_str(extra);
    scene.start().await.expect("starts")
}

#[tokio::test]
async fn an_engine_that_refuses_connections_fails_no_request() {
    let fleet = two_engines("").await;
    fleet.engines[0].faults().set(Fault::RefuseConnections);
    for stream in [false, true, false, true, false, true] {
        let response = send(chat(&fleet.url(), stream, 2)).await;
        assert_eq!(response.status(), 200);
        assert!(pieces(response).await.1);
    }
    assert_eq!(fleet.engines[1].stats().requests, 6);
}

#[tokio::test]
async fn an_engine_that_resets_or_closes_before_its_head_fails_no_request() {
    for fault in [Fault::ResetBeforeHeaders, Fault::CloseBeforeHeaders] {
        let fleet = two_engines("").await;
        fleet.engines[0].faults().set(fault.clone());
        for _ in 0..4 {
            assert_eq!(
                send(chat(&fleet.url(), false, 1)).await.status(),
                200,
                "{fault:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_stream_whose_engine_dies_before_the_first_token_begins_elsewhere() {
    let fleet = two_engines("").await;
    fleet.engines[0].faults().set(Fault::DieMidStream {
        after_tokens: 0,
        reset: true,
    });
    for _ in 0..4 {
        let (pieces, whole) = pieces(send(chat(&fleet.url(), true, 3)).await).await;
        assert!(whole && pieces.concat().contains("[DONE]"));
    }
}

#[tokio::test]
async fn a_busy_engine_sends_the_request_to_another() {
    for code in [429, 503] {
        let fleet = two_engines("").await;
        fleet.engines[0].faults().set(Fault::Status {
            code,
            retry_after: None,
        });
        for _ in 0..4 {
            assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
        }
        assert_eq!(fleet.engines[1].stats().requests, 4);
    }
}

#[tokio::test]
async fn when_all_engines_are_overloaded_the_client_gets_retry_after() {
    let fleet = two_engines("").await;
    for (engine, retry_after) in fleet.engines.iter().zip([Some(7), Some(7)]) {
        engine.faults().set(Fault::Status {
            code: 503,
            retry_after,
        });
    }
    let response = send(chat(&fleet.url(), false, 1)).await;
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["retry-after"]
        ),
        (503, &"7".parse().expect("ASCII"))
    );
    for engine in &fleet.engines {
        engine.faults().clear();
        engine.faults().set(Fault::Status {
            code: 429,
            retry_after: None,
        });
    }
    let response = send(chat(&fleet.url(), false, 1)).await;
    assert_eq!(
        (
            response.status().as_u16(),
            &response.headers()["retry-after"]
        ),
        (429, &"1".parse().expect("ASCII"))
    );
}

#[tokio::test]
async fn overload_ejects_no_endpoint() {
    let fleet = two_engines("").await;
    fleet.engines[0].faults().set_for(
        6,
        Fault::Status {
            code: 503,
            retry_after: None,
        },
    );
    for _ in 0..16 {
        assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
    }
    let up = metric(
        &fleet.proxies[0].admin_url(),
        "hermes_endpoints{pool=\"chat\",health=\"down\"}",
    )
    .await;
    assert_eq!(up, 0.0);
}

#[tokio::test]
async fn a_request_that_may_be_the_cause_is_tried_twice_at_most() {
    let fleet = Scene::of(4, "round-robin").start().await.expect("starts");
    for engine in &fleet.engines {
        engine.faults().set(Fault::ResetBeforeHeaders);
    }
    let (status, body) = json_of(send(chat(&fleet.url(), false, 1)).await).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (502, Some("upstream_failed"))
    );
    let sent: u64 = fleet
        .engines
        .iter()
        .map(|engine| engine.stats().requests)
        .sum();
    assert_eq!(sent, 2);
}

#[tokio::test]
async fn a_failed_answer_of_the_last_engine_is_passed_on_as_it_is() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    fleet.engines[0].faults().set(Fault::Status {
        code: 500,
        retry_after: None,
    });
    let (status, body) = json_of(send(chat(&fleet.url(), false, 1)).await).await;
    assert_eq!(
        (status, body["error"]["type"].as_str()),
        (500, Some("InternalServerError"))
    );
}

#[tokio::test]
async fn an_engine_that_never_answers_is_abandoned_at_the_timeout() {
    let fleet = two_engines("  timeouts: {request: 1s, firstByte: 1s}\n").await;
    for engine in &fleet.engines {
        engine.faults().set(Fault::StallBeforeHeaders);
    }
    for stream in [false, true] {
        let (status, body) = json_of(send(chat(&fleet.url(), stream, 1)).await).await;
        assert_eq!(
            (status, body["error"]["code"].as_str()),
            (504, Some("upstream_timeout"))
        );
    }
}

#[tokio::test]
async fn a_dead_engine_is_ejected_and_used_again_after_recovery() {
    let fleet = two_engines("  metrics: {interval: 1s}\n").await;
    fleet.engines[0].kill().await;
    let admin = fleet.proxies[0].admin_url();
    let down = "hermes_endpoints{pool=\"chat\",health=\"down\"}";
    eventually("the dead engine is out", || async {
        assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
        metric(&admin, down).await == 1.0
    })
    .await;
    fleet.engines[0].restart().await.expect("the port is free");
    eventually("the engine is back", || async {
        assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
        fleet.engines[0].stats().requests > 0
    })
    .await;
}

#[tokio::test]
async fn retries_stop_when_the_budget_is_exhausted() {
    let fleet = two_engines("  retry: {maxAttempts: 2, budget: 0.0}\n").await;
    fleet.engines[0].faults().set(Fault::Status {
        code: 503,
        retry_after: None,
    });
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(send(chat(&fleet.url(), false, 1)).await.status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503]);
    assert_eq!(
        metric(
            &fleet.proxies[0].admin_url(),
            "hermes_retries_total{pool=\"chat\"}"
        )
        .await,
        0.0
    );
}

#[tokio::test]
async fn a_refusal_that_another_engine_makes_up_for_costs_no_connection() {
    let refusing = Recorder::start(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\ncontent-length: 4\r\n\r\nbusy",
    )
    .await;
    let serving = Recorder::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let front = Front::start(&format!(
        "pools: [{{name: chat, strategy: round-robin, retry: {{budget: 1}}, endpoints: ['{}', '{}']}}]\n",
        refusing.url(),
        serving.url()
    ))
    .await;
    for _ in 0..20 {
        assert_eq!(send(chat(&front.url(), false, 1)).await.status(), 200);
    }
    let (requests, connections) = (refusing.take().len(), refusing.connections());
    assert!(
        requests >= 5 && connections <= 2,
        "{requests}, {connections}"
    );
}
