//! A prefill and a decode engine, each a process, behind `hermes serve`.

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::process::{Ended, Hermes, PATIENCE, chat_when_ready, file};

async fn ask(url: &str, body: &Value) -> Value {
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    let request = http.build().expect("a client").post(url).json(body);
    let answer = request.send().await.expect("an answer");
    answer.json().await.expect("JSON")
}

async fn pairs_of(engine: &str) -> Value {
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    let request = http
        .build()
        .expect("a client")
        .get(format!("{engine}/sim/pairs"));
    let state = request.send().await.expect("an answer").json().await;
    state.expect("JSON")
}

async fn a_pair_answers(protocol: &str, keys: &str) {
    hermes_runtime::crypto::install_default_crypto();
    let engine = |role| {
        let args = ["--role", role, "--protocol", protocol];
        let listen = ["engine", "--listen", "127.0.0.1:0"];
        let port = ["--side-channel-port", "0"];
        Hermes::start(&[&listen[..], &args[..], &port[..]].concat())
    };
    let (prefill, decode) = (engine("prefill"), engine("decode"));
    let (prefill_url, decode_url) = (prefill.url(), decode.url());
    let port = prefill.side_channel_port();
    let keys = keys.replace("PORT", &port);
    let config = file(
        &format!("{protocol}-pair.yaml"),
        &format!(
            "pools: [{{name: chat, disaggregation: {{dialect: {protocol}, prefill: [{prefill_url}], \
             decode: [{decode_url}]{keys}}}}}]"
        ),
    );
    let config = config.to_str().expect("a path");
    let router = Hermes::start(&[
        "serve",
        "--config",
        config,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    let url = router.url();
    chat_when_ready(&url).await;
    // A router learns in a moment what it has to know of a prefill engine before it pairs it.
    let began = Instant::now();
    let mut number = 0;
    while pairs_of(&prefill_url).await["handoffs"]["taken"] == 0 {
        assert!(began.elapsed() < PATIENCE, "nothing was handed over");
        number += 1;
        let prompt = format!("{number} {}", "word ".repeat(1_000));
        let body = json!({"model": "sim", "prompt": prompt, "max_tokens": 3});
        let answer = ask(&format!("{url}/v1/completions"), &body).await;
        assert_eq!(answer["usage"]["completion_tokens"], 3, "{answer}");
    }
    for (role, url) in [("prefill", &prefill_url), ("decode", &decode_url)] {
        let state = pairs_of(url).await;
        assert_eq!(
            (&state["role"], &state["violations"]),
            (&json!(role), &json!({}))
        );
    }
    for process in [router, prefill, decode] {
        let Ended { status, err, .. } = process.terminate();
        assert!(status.success(), "{err}");
    }
}

#[tokio::test]
async fn engines_of_a_pair_in_processes_of_their_own_hand_prompts_over() {
    a_pair_answers("vllm-nixl", "").await;
    a_pair_answers("trtllm", "").await;
    for protocol in ["sglang", "vllm-mooncake"] {
        a_pair_answers(protocol, ", bootstrapPort: PORT").await;
    }
}
