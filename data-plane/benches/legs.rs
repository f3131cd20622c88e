//! What it costs to make the bodies of both legs of a split request: the client's bytes between
//! edits, and what the prefill endpoint handed over.

use bytes::Bytes;
use divan::{Bencher, black_box};
use hermes_core::{
    policy::{DisaggregationPolicy, PairDialect},
    snapshot::{Endpoint, EndpointId, PairingFacts, Role},
};
use hermes_data_plane::leg_bodies;

/// Bytes of a prompt: a small one, and one of 55,000 tokens.
const PROMPTS: [usize; 2] = [800, 220_000];
/// Bytes of a prompt that are one block of a KV cache: 16 tokens of 4 bytes.
const BLOCK_BYTES: usize = 64;

fn main() {
    divan::main();
}

#[divan::bench(args = PROMPTS)]
fn vllm_nixl(bencher: Bencher<'_, '_>, prompt_bytes: usize) {
    both(bencher, PairDialect::VllmNixl, prompt_bytes);
}

#[divan::bench(args = PROMPTS)]
fn sglang(bencher: Bencher<'_, '_>, prompt_bytes: usize) {
    both(bencher, PairDialect::Sglang, prompt_bytes);
}

fn both(bencher: Bencher<'_, '_>, dialect: PairDialect, prompt_bytes: usize) {
    let rules = DisaggregationPolicy::of(dialect);
    let endpoints = ["http://127.0.0.1:8001", "http://127.0.0.1:8002"].map(endpoint);
    let pair = endpoints.each_ref();
    let (body, answer) = (chat(prompt_bytes), Bytes::from(prefilled(prompt_bytes)));
    bencher.bench(|| {
        let request = ("/v1/chat/completions", black_box(&body));
        leg_bodies::of(&rules, pair, request, black_box(&answer)).expect("a JSON object")
    });
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        id: EndpointId(1),
        address: address.parse().expect("an address"),
        name: address.into(),
        role: Role::Aggregate,
        group: None,
        pairing: PairingFacts::default(),
    }
}

fn chat(prompt_bytes: usize) -> Bytes {
    let prompt = "word ".repeat(prompt_bytes / 5);
    Bytes::from(format!(
        r#"{{"model":"m","messages":[{{"role":"user","content":"{prompt}"}}],"max_tokens":50,"stream":true,"stream_options":{{"include_usage":true}}}}"#
    ))
}

/// The answer of a prefill leg of vLLM 0.32.
fn prefilled(prompt_bytes: usize) -> Vec<u8> {
    let blocks: Vec<String> = (0..prompt_bytes / BLOCK_BYTES)
        .map(|block| block.to_string())
        .collect();
    format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","choices":[{{"index":0,"message":{{"role":"assistant","content":"a"}},"finish_reason":"length"}}],"kv_transfer_params":{{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[{}]],"remote_engine_id":"e","remote_request_id":"r","remote_host":"127.0.0.1","remote_port":5600,"tp_size":1}}}}"#,
        blocks.join(",")
    )
    .into_bytes()
}
