//! What both legs have in common: the prompt, byte by byte. A decode engine that gets a longer one
//! than was prefilled dies.

use super::*;
use crate::client::client;

/// Paths, what a client writes as its prompt there, and the name of its limit.
fn requests() -> [(&'static str, String, &'static str); 4] {
    let words = "word ".repeat(1_000);
    let text = format!(r#""h\u00e9\t\ud83d\ude00 \"quoted\" \/ {words}""#);
    [
        (
            "/v1/chat/completions",
            format!(r#""messages" : [ {{"role":"user",  "content":{text}}} ]"#),
            "max_tokens",
        ),
        (
            "/v1/completions",
            format!(r#""prompt": {text}"#),
            "max_tokens",
        ),
        (
            "/v1/responses",
            format!(r#""input"  :{text}"#),
            "max_output_tokens",
        ),
        (
            "/v1/messages",
            format!(r#""system":"be\u0020brief","messages":[{{"role":"user","content":{text}}}]"#),
            "max_tokens",
        ),
    ]
}

/// Whether these bytes are a part of the body.
fn has(request: &RecordedRequest, bytes: &str) -> bool {
    memchr::memmem::find(&request.body, bytes.as_bytes()).is_some()
}

#[tokio::test]
async fn both_legs_have_the_bytes_of_the_clients_prompt_in_every_api() {
    for scene in [PairedScene::nixl(1, 1), PairedScene::sglang(1, 1)] {
        let fleet = scene.keys("minUncachedTokens: 0").start().await;
        let mut sent_before = 0;
        for (path, prompt, limit) in requests() {
            for stream in [false, true] {
                let body = format!(
                    r#"{{"model":"sim", {prompt} ,"{limit}":5,"stream":{stream},"temperature": 0.50}}"#
                );
                let request = client().post(format!("{}{path}", fleet.url()));
                let request = request.header("content-type", "application/json");
                let response = send(request.body(body)).await;
                assert_eq!(response.status(), 200, "{path}");
                response.bytes().await.expect("a whole answer");
                sent_before += 1;
                for engine in [&fleet.prefills[0], &fleet.decodes[0]] {
                    let legs = sent(engine);
                    assert_eq!(legs.len(), sent_before, "{path}: a leg for each engine");
                    let leg = &legs[sent_before - 1];
                    assert!(
                        has(leg, &prompt) && has(leg, r#""temperature": 0.50"#),
                        "{path}"
                    );
                }
            }
        }
        assert_eq!(fleet.network.violations(), Vec::<String>::new());
    }
}
