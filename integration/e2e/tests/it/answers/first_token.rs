//! What counts as the first token, and what is complete without one.

use std::time::Duration;

use hermes_bench::fleet::Scene;
use hermes_testkit::scripted_engine::{ScriptedAnswer, ScriptedEngine};

use super::{in_front_of, is_post, outcomes, sum_of};
use crate::client::{chat, client, eventually, metric, send};

const PROMPT_TIME: Duration = Duration::from_millis(400);

#[tokio::test]
async fn comments_roles_and_created_events_are_no_tokens() {
    let preambles = [
        ": keep-alive\n\n",
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\"}}\n\n",
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n",
    ];
    for preamble in preambles {
        let engine = ScriptedEngine::start(&["sim"], move |request| {
            let token = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
            let events = [(Duration::ZERO, preamble), (PROMPT_TIME, token)];
            is_post(request).then(|| ScriptedAnswer::events(&events))
        });
        let engine = engine.await.expect("a free port");
        let fleet = in_front_of(&[&engine.url()], "").await;
        let response = send(chat(&fleet.url(), true, 1)).await;
        let body = response.text().await.expect("whole");
        assert!(body.starts_with(preamble), "{body}");
        eventually("the request is counted", || async {
            outcomes(&fleet, "ok").await == 1.0
        })
        .await;
        let ttft = sum_of(&fleet, "hermes_time_to_first_token_seconds_sum{", "chat").await;
        assert!(ttft >= PROMPT_TIME.as_secs_f64(), "{preamble:?}: {ttft} s");
    }
}

#[tokio::test]
async fn an_answer_that_is_complete_at_its_head_is_no_cancelled_one() {
    for head in ["200 OK", "204 No Content", "401 Unauthorized"] {
        let engine = ScriptedEngine::start(&["sim"], move |request| {
            let answer = match head {
                "204 No Content" => ScriptedAnswer {
                    pieces: vec![(
                        Duration::ZERO,
                        format!("HTTP/1.1 {head}\r\n\r\n").into_bytes(),
                    )],
                    closes: false,
                },
                _ => ScriptedAnswer::whole(head, &[], ""),
            };
            is_post(request).then_some(answer)
        });
        let engine = engine.await.expect("a free port");
        let mut scene = Scene {
            endpoints: vec![engine.url()],
            ..Scene::of(0, "round-robin")
        };
        scene.top = "extraPaths: [/wake_up]\n".to_owned();
        let fleet = scene.start().await.expect("starts");
        for _ in 0..4 {
            let url = format!("{}/wake_up", fleet.url());
            send(client().post(url).body("x")).await;
        }
        let expected = if head.starts_with('4') {
            "client_error"
        } else {
            "ok"
        };
        eventually(head, || async { outcomes(&fleet, expected).await == 4.0 }).await;
        let admin = fleet.proxies[0].admin_url();
        let opened = metric(&admin, "hermes_endpoint_connections_opened_total").await;
        assert!(opened <= 2.0, "{head}: {opened} connections for 4 requests");
    }
}
