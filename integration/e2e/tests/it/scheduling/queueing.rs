//! Requests that are queued in the control plane until an engine has room.

use std::time::Duration;

use hermes_bench::fleet::Fleet;
use http::Method;
use reqwest::RequestBuilder;
use tokio::{task::JoinHandle, time::Instant};

use super::harness::{
    Stall, all_answered, await_pool_metric, await_queued, chosen_by, complete, fleet, pool_metric,
    question, requests, send_in_background, send_several, short, text,
};
use crate::client::{ask, eventually, json_of, send};

#[tokio::test]
async fn requests_to_an_idle_fleet_are_bound_without_queueing() {
    let fleet = fleet(2, "").await;
    for number in 0..5 {
        complete(&fleet.url(), &short(&format!("user {number}"))).await;
    }
    assert_eq!(chosen_by(&fleet.proxies, "score").await, 5.0);
    assert_eq!(
        pool_metric(
            &fleet.control_planes[0],
            "hermes_control_plane_enqueued_requests_total"
        )
        .await,
        0.0
    );
}

#[tokio::test]
async fn requests_to_a_busy_fleet_are_queued_until_first_bytes_free_capacity() {
    let fleet = fleet(2, "").await;
    let plane = &fleet.control_planes[0];
    // Takes each engine 1.5 s.
    let busy: Vec<_> = (0..2)
        .map(|number| {
            send_in_background(
                &fleet.url(),
                &question(text(&format!("busy {number}"), 12_000)),
            )
        })
        .collect();
    eventually("both engines work", || {
        std::future::ready(requests(&fleet) == 2)
    })
    .await;
    let late = send_several(&fleet.url(), 4, "late");
    await_queued(&fleet, 4).await;
    assert!(pool_metric(plane, "hermes_control_plane_queued_bytes").await > 4.0 * 1_600.0);
    assert_eq!(
        requests(&fleet),
        2,
        "they are queued here, not in an engine"
    );
    for answer in busy.into_iter().chain(late) {
        assert_eq!(answer.await.expect("answered"), 200);
    }
    assert_eq!(
        pool_metric(plane, "hermes_control_plane_enqueued_requests_total").await,
        4.0
    );
    assert_eq!(
        pool_metric(plane, "hermes_control_plane_queue_duration_seconds_count").await,
        4.0
    );
    assert_eq!(
        (
            pool_metric(plane, "hermes_control_plane_queued_requests").await,
            pool_metric(plane, "hermes_control_plane_queued_bytes").await
        ),
        (0.0, 0.0)
    );
    assert_eq!(chosen_by(&fleet.proxies, "score").await, 6.0);
}

/// Sends a request, and waits until it is the last of `count` queued ones. Gives back its status.
async fn queued(fleet: &Fleet, request: RequestBuilder, count: usize) -> JoinHandle<u16> {
    let answer = tokio::spawn(async move { send(request).await.status().as_u16() });
    await_queued(fleet, count).await;
    answer
}

#[tokio::test]
async fn the_queued_request_with_the_highest_priority_is_bound_first() {
    let fleet = fleet(1, "  queue: {maxPriority: 8}\n").await;
    let stall = Stall::all(&fleet).await.remove(0);
    let (url, mut answers) = (fleet.url(), Vec::new());
    for (number, priority) in ["0", "-3", "0", "8"].into_iter().enumerate() {
        let request =
            ask(&url, &long(&format!("priority {priority}"))).header("x-hermes-priority", priority);
        answers.push(queued(&fleet, request, number + 1).await);
    }
    stall.end();
    all_answered(answers).await;
    let order = order(&fleet);
    assert_eq!(order.len(), 5);
    assert!(
        order[1].starts_with("priority 8:") && order[4].starts_with("priority -3:"),
        "{order:?}"
    );
}

#[tokio::test]
async fn no_client_makes_its_requests_urgent_by_default() {
    let fleet = fleet(1, "").await;
    let stall = Stall::all(&fleet).await.remove(0);
    let (url, mut answers) = (fleet.url(), Vec::new());
    // The later ones claim to be urgent, and to be of tenants that got nothing yet.
    for (number, priority) in ["0", "8", "1000000"].into_iter().enumerate() {
        let request = ask(&url, &long(&format!("request {number}")))
            .header("x-hermes-priority", priority)
            .bearer_auth(format!("sk-{number}"));
        answers.push(queued(&fleet, request, number + 1).await);
    }
    stall.end();
    all_answered(answers).await;
    let order = order(&fleet);
    for number in 0..3 {
        let expected = format!("request {number}:");
        assert!(order[number + 1].starts_with(&expected), "{order:?}");
    }
}

#[tokio::test]
async fn a_new_tenants_request_is_bound_before_those_of_a_heavy_tenant() {
    let fleet = fleet(1, "  tenant: key\n").await;
    // Requests without credentials form a tenant of their own.
    let stall = Stall::all(&fleet).await.remove(0);
    let mut answers: Vec<_> = (0..3)
        .map(|number| send_in_background(&fleet.url(), &long(&format!("same {number}"))))
        .collect();
    await_queued(&fleet, 3).await;
    let other = ask(&fleet.url(), &long("other")).bearer_auth("sk-other");
    answers.push(tokio::spawn(
        async move { send(other).await.status().as_u16() },
    ));
    await_queued(&fleet, 4).await;
    stall.end();
    all_answered(answers).await;
    assert!(
        order(&fleet)[1].starts_with("other:"),
        "{:?}",
        order(&fleet)
    );
}

#[tokio::test]
async fn the_newest_request_of_a_tenant_that_fills_the_queue_is_evicted_for_another_tenant() {
    let fleet = fleet(1, "  queue: {maxRequests: 3}\n  tenant: key\n").await;
    let stall = Stall::all(&fleet).await.remove(0);
    let mut crowd = Vec::new();
    for number in 0..3 {
        crowd.push(send_in_background(
            &fleet.url(),
            &short(&format!("crowd {number}")),
        ));
        await_pool_metric(
            &fleet.control_planes[0],
            "hermes_control_plane_queued_requests",
            f64::from(number + 1),
        )
        .await;
    }
    assert_eq!(
        send(ask(&fleet.url(), &short("one more"))).await.status(),
        429,
        "the queue holds only requests of the same tenant"
    );
    let other = ask(&fleet.url(), &short("other")).bearer_auth("sk-other");
    let other = tokio::spawn(async move { send(other).await.status().as_u16() });
    let newest = crowd.pop().expect("three of them").await.expect("answered");
    assert_eq!(newest, 429);
    stall.end();
    for answer in crowd.into_iter().chain([other]) {
        assert_eq!(answer.await.expect("answered"), 200);
    }
}

/// A prompt that takes an engine 250 ms, so that requests are bound at least 150 ms apart and
/// arrive in the order in which they were bound.
fn long(name: &str) -> serde_json::Value {
    question(text(name, 2_000))
}

/// The first characters of the prompts that the first engine received, in order.
fn order(fleet: &hermes_bench::fleet::Fleet) -> Vec<String> {
    let posts = fleet.engines[0]
        .requests()
        .into_iter()
        .filter(|request| request.method == Method::POST);
    let texts = posts.filter_map(|request| {
        Some(
            request.json()["messages"][0]["content"]
                .as_str()?
                .to_owned(),
        )
    });
    texts.map(|text| text.chars().take(12).collect()).collect()
}

#[tokio::test]
async fn a_request_over_the_queue_limit_gets_429_with_retry_after() {
    let fleet = fleet(1, "  queue: {maxRequests: 1}\n").await;
    let stall = Stall::all(&fleet).await.remove(0);
    let waiting = send_in_background(&fleet.url(), &short("waits"));
    await_queued(&fleet, 1).await;
    let refused = send(ask(&fleet.url(), &short("comes too late"))).await;
    let after: u32 = refused.headers()["retry-after"]
        .to_str()
        .expect("ASCII")
        .parse()
        .expect("seconds");
    assert!(after >= 1);
    let (status, body) = json_of(refused).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (429, &"queue_full".into())
    );
    assert_eq!(body["error"]["type"], "rate_limit_error");
    assert!(
        body["error"]["message"]
            .as_str()
            .is_some_and(|message| message.contains("wait")),
        "{body}"
    );
    stall.end();
    assert_eq!(waiting.await.expect("answered"), 200);
    assert_eq!(requests(&fleet), 2);
}

#[tokio::test]
async fn a_request_over_the_byte_limit_of_the_queue_gets_429() {
    let fleet = fleet(1, "  queue: {maxBytes: 4KiB}\n").await;
    let _stall = Stall::all(&fleet).await;
    let _waiting = send_in_background(&fleet.url(), &short("waits"));
    await_queued(&fleet, 1).await;
    assert_eq!(
        send(ask(&fleet.url(), &question(text("is too long", 800))))
            .await
            .status(),
        429
    );
}

#[tokio::test]
async fn a_request_that_is_queued_for_too_long_gets_503_with_retry_after() {
    let fleet = fleet(1, "  queue: {maxWait: 200ms}\n").await;
    let _stall = Stall::all(&fleet).await;
    let since = Instant::now();
    let refused = send(ask(&fleet.url(), &short("waits in vain"))).await;
    assert!(since.elapsed() >= Duration::from_millis(200));
    assert!(refused.headers().contains_key("retry-after"));
    let (status, body) = json_of(refused).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (503, &"queue_timeout".into())
    );
    assert_eq!(requests(&fleet), 1);
    assert_eq!(
        pool_metric(
            &fleet.control_planes[0],
            "hermes_control_plane_queued_requests"
        )
        .await,
        0.0
    );
}

#[tokio::test]
async fn a_non_streaming_request_holds_its_engine_only_during_prefill() {
    let fleet = fleet(1, "").await;
    let whole = |name: &str| {
        let mut body = short(name);
        body["stream"] = false.into();
        body["stream_options"].take();
        // Takes more than a second to decode.
        body["max_tokens"] = 150.into();
        body["ignore_eos"] = true.into();
        send_in_background(&fleet.url(), &body)
    };
    let answers = [whole("first"), whole("second"), whole("third")];
    eventually("all three run side by side", || {
        std::future::ready(fleet.engines[0].stats().running == 3)
    })
    .await;
    assert!(answers.iter().all(|answer| !answer.is_finished()));
    all_answered(answers).await;
}
