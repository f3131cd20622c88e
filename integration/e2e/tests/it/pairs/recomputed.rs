//! Answers that a decode engine gives up, as vllm-ascend does when its memory runs out: the client
//! never takes a part for the whole.

use std::time::Duration;

use hermes_bench::fleet::{Plane, control_plane, proxy};
use hermes_testkit::scripted_engine::{ScriptedAnswer, ScriptedEngine};

use super::*;

const TOKEN: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
const GIVEN_UP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\
                        \"finish_reason\":\"stop\",\"stop_reason\":\"recomputed\"}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A pool with one prefill engine, and a decode engine whose answers are scripted.
struct Scripted {
    decode: ScriptedEngine,
    sound: EngineHandle,
    proxy: Plane<data::DataPlane>,
    _prefill: EngineHandle,
    _control: Plane<control::ControlPlane>,
}

impl Scripted {
    async fn with(answer: impl Fn() -> ScriptedAnswer + Send + Sync + 'static) -> Self {
        let is_chat = |line: &str| line == "POST /v1/chat/completions";
        let decode = ScriptedEngine::start(&["sim"], move |request| {
            is_chat(&request.line).then(&answer)
        });
        let decode = decode.await.expect("starts");
        let (prefill, sound) = (
            Engine::start(instant()).await.expect("starts"),
            Engine::start(instant()).await.expect("starts"),
        );
        let yaml = format!(
            "pools:\n- name: chat\n  strategy: least-request\n  scoreDeadline: 5s\n  \
             endpoints: [{}]\n  disaggregation: {{dialect: shared-storage, \
             minUncachedTokens: 0, prefill: [{}], decode: [{}], onFailure: aggregate}}\n",
            sound.url(),
            prefill.url(),
            decode.url(),
        );
        let config = Config::parse(&yaml).expect("a configuration of this test");
        let control = control_plane(ConfigSource::Value(config)).await;
        let control = control.expect("starts");
        let proxy = proxy(&[control.bound.grpc]).await.expect("starts");
        proxy.bound.readiness.ready().await;
        Self {
            decode,
            sound,
            proxy,
            _prefill: prefill,
            _control: control,
        }
    }

    /// The answers to requests until the scripted engine has had one: all but the last are of the
    /// other engine.
    async fn answer(&self, stream: bool) -> reqwest::Response {
        for turn in 0.. {
            let body = long_chat(&format!("turn {turn}"), stream);
            let response = send(ask(&self.proxy.url(), &body)).await;
            if self.decode.requests() > 0 {
                return response;
            }
            response.bytes().await.expect("a whole answer");
        }
        unreachable!("the scripted engine gets its share")
    }
}

#[tokio::test]
async fn an_answer_that_is_given_up_before_its_first_byte_is_computed_elsewhere() {
    let body = "{\"choices\":[{\"index\":0,\"message\":{\"content\":\"a\"},\
                \"finish_reason\":\"stop\",\"stop_reason\":\"recomputed\"}]}";
    let head = ["content-type: application/json"];
    let scripted = Scripted::with(move || ScriptedAnswer::whole("200 OK", &head, body)).await;
    let (status, answer) = json_of(scripted.answer(false).await).await;
    assert_eq!(status, 200);
    assert!(!answer.to_string().contains("recomputed"), "{answer}");

    let events = [(Duration::ZERO, GIVEN_UP), (Duration::ZERO, DONE)];
    let scripted = Scripted::with(move || ScriptedAnswer::events(&events)).await;
    let (pieces, is_whole) = pieces(scripted.answer(true).await).await;
    let text = pieces.concat();
    assert!(is_whole && !text.contains("recomputed"), "{text}");
    assert!(!sent(&scripted.sound).is_empty());
}

#[tokio::test]
async fn an_answer_that_is_given_up_mid_stream_ends_with_an_error() {
    let pause = Duration::from_millis(50);
    let events = [(Duration::ZERO, TOKEN), (pause, GIVEN_UP), (pause, DONE)];
    let scripted = Scripted::with(move || ScriptedAnswer::events(&events)).await;
    let (pieces, is_whole) = pieces(scripted.answer(true).await).await;
    let text = pieces.concat();
    assert!(!is_whole && text.starts_with(TOKEN), "{text}");
    assert!(text.contains("upstream_died"), "{text}");
    assert!(!text.contains("recomputed") && !text.contains("[DONE]"));
}
