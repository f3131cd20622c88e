//! The bytes of `trtllm`, as `trtllm-serve` and its disaggregated server have them.

use super::*;

/// A context server's answer, with this choice and these further fields.
fn answer(choice: &str, more: &str) -> String {
    format!(
        r#"{{"id":"chatcmpl-7","object":"chat.completion","created":1795320428,"model":"tiny","choices":[{choice}],"usage":{{"prompt_tokens":3,"total_tokens":4,"completion_tokens":1,"prompt_tokens_details":{{"cached_tokens":2}}}}{more}}}"#
    )
}

const IDS: &str = r#","prompt_token_ids":[1,2,3]"#;

const PARAMS: &str = r#"{"request_type":"context_only","first_gen_tokens":[7],"ctx_request_id":4611686018427387905,"encoded_opaque_state":"3q2+7w==","draft_tokens":null,"disagg_request_id":4611686018427387905,"ctx_dp_rank":0,"ctx_info_endpoint":"tcp://10.0.0.7:41234","schedule_style":null,"ctx_usage":null}"#;

fn choice(params: &str, reason: &str) -> String {
    format!(
        r#"{{"index":0,"message":{{"role":"assistant","content":"a","tool_calls":[]}},"logprobs":null,"finish_reason":{reason},"disaggregated_params":{params}}}"#
    )
}

fn after(api: Api, answer: &str) -> PrefillResult {
    after_prefill(
        PairDialect::Trtllm,
        api,
        &Bytes::copy_from_slice(answer.as_bytes()),
    )
}

fn final_of(answer: &str) -> FinalAnswer {
    match after(Api::Chat, answer) {
        PrefillResult::Final(last) => last,
        other => panic!("nothing is left to generate: {other:?}"),
    }
}

#[tokio::test]
async fn a_context_leg_is_the_whole_request_with_an_id_beyond_those_of_servers() {
    let PairPlan::Serial(edits) = planned(PairDialect::Trtllm, Api::Chat) else {
        panic!("one leg after the other");
    };
    let body = r#"{"model":"tiny","messages":[],"prompt_token_ids":[9],"max_tokens":64,"stream":true,"stream_options":{"include_usage":true}}"#;
    assert_eq!(
        edited(body, &edits).await,
        r#"{"model":"tiny","messages":[],"max_tokens":64,"stream":false,"disaggregated_params":{"request_type":"context_only","disagg_request_id":9223372036854775807}}"#
    );
    assert!(edits.is_for_once, "a server has each id once");
    let zero = crate::pair::trtllm::prefill(0);
    let zero = edited("{}", &zero).await;
    assert!(zero.contains(":4611686018427387904}"), "{zero}");
}

#[tokio::test]
async fn a_generation_leg_takes_over_the_parameters_and_the_tokens_of_the_prompt() {
    let ours = |api| async move {
        let answer = answer(&choice(PARAMS, "\"not_finished\""), IDS);
        let PrefillResult::HandOver(handoff) = after(api, &answer) else {
            panic!("a generation leg follows");
        };
        assert!(handoff.is_taken && handoff.edits.is_for_once);
        assert_eq!(
            handoff.cached_tokens, None,
            "its server reports by ctx_usage"
        );
        edited(r#"{"prompt":"abc","stream":true}"#, &handoff.edits).await
    };
    let params = PARAMS.replace("context_only", "generation_only").replace(
        r#""ctx_usage":null"#,
        r#""ctx_usage":{"prompt_tokens":3,"total_tokens":4,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}"#,
    );
    assert_eq!(
        ours(Api::Completions).await,
        format!(r#"{{"prompt":[1,2,3],"stream":true,"disaggregated_params":{params}}}"#)
    );
    assert_eq!(
        ours(Api::Chat).await,
        format!(
            r#"{{"prompt":"abc","stream":true,"disaggregated_params":{params},"prompt_token_ids":[1,2,3]}}"#
        )
    );
}

#[tokio::test]
async fn what_a_release_does_not_have_is_not_sent_to_it() {
    let params = r#"{"request_type":"context_only","ctx_request_id":1,"disagg_request_id":2}"#;
    let answer = answer(&choice(params, "\"length\""), "");
    let handoff = handoff(PairDialect::Trtllm, answer.as_bytes());
    assert_eq!(
        handoff.cached_tokens,
        Some(2),
        "its server would report others"
    );
    let params = params.replace("context_only", "generation_only");
    assert_eq!(
        edited("{}", &handoff.edits).await,
        format!(r#"{{"disaggregated_params":{params}}}"#)
    );
}

#[test]
fn an_answer_that_ended_with_its_first_token_is_the_clients_without_the_parameters() {
    let choice = choice(PARAMS, "\"stop\"");
    let last = final_of(&answer(&choice, IDS));
    let plain = choice.replace(&format!(",\"disaggregated_params\":{PARAMS}"), "");
    assert_eq!(last.whole(), answer(&plain, ""));
}

#[test]
fn as_a_stream_it_is_one_chunk_the_usage_if_it_is_wanted_and_the_end() {
    let last = final_of(&answer(&choice("null", "\"stop\""), IDS));
    let head = r#"{"id":"chatcmpl-7","object":"chat.completion.chunk","created":1795320428,"model":"tiny""#;
    let chunk = format!(
        "data: {head},{}}}\n\n",
        r#""choices":[{"index":0,"logprobs":null,"finish_reason":"stop","delta":{"role":"assistant","content":"a","tool_calls":[]}}]"#
    );
    assert_eq!(last.events(false), format!("{chunk}data: [DONE]\n\n"));
    let usage = format!(
        "data: {head},{}}}\n\n",
        r#""choices":[],"usage":{"prompt_tokens":3,"total_tokens":4,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}"#
    );
    assert_eq!(last.events(true), format!("{chunk}{usage}data: [DONE]\n\n"));
}

#[test]
fn a_completion_that_ended_is_streamed_with_its_text_and_calls_of_tools_get_numbers() {
    let text = r#"{"index":0,"text":" a","finish_reason":"stop","disaggregated_params":null}"#;
    let completion = answer(text, IDS).replace("chat.completion", "text_completion");
    let PrefillResult::Final(last) = after(Api::Completions, &completion) else {
        panic!("nothing is left to generate");
    };
    let events = last.events(false);
    let choices = r#""choices":[{"index":0,"text":" a","finish_reason":"stop"}]"#;
    assert!(
        events.contains(choices) && events.contains(r#""object":"text_completion""#),
        "{events}"
    );
    let called = choice("null", "\"tool_calls\"").replace("[]", r#"[{"id":"c"},{"id":"d"}]"#);
    let events = final_of(&answer(&called, "")).events(false);
    assert!(
        events.contains(r#""tool_calls":[{"id":"c","index":0},{"id":"d","index":1}]"#),
        "{events}"
    );
}

#[test]
fn an_answer_of_another_form_is_not_used() {
    let length = "\"length\"";
    let no_ctx = r#"{"request_type":"context_only","ctx_request_id":null,"disagg_request_id":2}"#;
    let no_id = r#"{"request_type":"context_only","ctx_request_id":1}"#;
    let two = format!("{0},{0}", choice(PARAMS, length));
    for (answer, problem) in [
        ("no JSON".to_owned(), "no JSON object"),
        ("[]".to_owned(), "no JSON object"),
        (answer("", IDS), "one choice"),
        (answer(&two, IDS), "one choice"),
        (
            answer(&choice("null", length), IDS),
            "no disaggregated_params",
        ),
        (answer(&choice("7", length), IDS), "no disaggregated_params"),
        (answer(&choice(no_ctx, length), IDS), "no ids"),
        (answer(&choice(no_id, length), IDS), "no ids"),
        (answer(&choice(PARAMS, "null"), IDS), "finish_reason"),
        (answer(&choice(PARAMS, "\"error\""), IDS), "finish_reason"),
    ] {
        let PrefillResult::Unusable(why) = after(Api::Chat, &answer) else {
            panic!("unusable: {answer}");
        };
        assert!(why.contains(problem), "{why}: {answer}");
    }
}

#[test]
fn requests_of_other_apis_are_not_split() {
    let carries = |api| carries(PairDialect::Trtllm, api);
    assert!(carries(Api::Chat) && carries(Api::Completions));
    assert!(!carries(Api::Responses) && !carries(Api::Messages));
}

proptest::proptest! {
    #[test]
    fn any_answer_is_read_without_a_panic(answer in "[\\[\\]{}:,\" a-z0-9]{0,60}") {
        let _ = after(Api::Chat, &format!(r#"{{"choices":[{answer}]}}"#));
    }
}
