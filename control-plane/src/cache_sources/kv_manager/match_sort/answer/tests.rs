use hermes_core::snapshot::EndpointId;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::cache_sources::kv_manager::Text;

const PROMPT_TOKENS: u32 = 1_000;

/// Two pods, and two servers that share a host.
fn lookup() -> Lookup {
    let candidates = [
        ("10.0.0.7:8000", "ai/chat-0"),
        ("10.0.0.8:8000", "ai/chat-1"),
        ("127.0.0.1:9001", ""),
        ("127.0.0.1:9002", ""),
        ("[fd00::1]:8000", ""),
    ];
    let candidates = candidates
        .iter()
        .zip(1..)
        .map(|((authority, name), id)| LookupCandidate {
            endpoint: EndpointId(id),
            authority: (*authority).into(),
            name: (*name).into(),
        });
    Lookup {
        model: "m".into(),
        text: Text::Prompt("\"p\"".into()),
        candidates: candidates.collect(),
        prompt_tokens: PROMPT_TOKENS,
        ..Lookup::default()
    }
}

/// The hits of an answer, as pairs of id and tokens.
fn read(answer: &Value) -> Result<Vec<(u64, u32)>, LookupOutcome> {
    let hits = hits(
        answer.to_string().as_bytes(),
        &lookup(),
        &MatchSort::default(),
    )?;
    Ok(hits
        .into_iter()
        .map(|hit| (hit.endpoint.0, hit.cached.gpu))
        .collect())
}

#[test]
fn every_known_shape_says_the_same() {
    let rows = json!([{"pod_ip": "10.0.0.7", "match_rate": 0.5}, {"pod_ip": "10.0.0.8", "match_rate": 0.25}]);
    let by_name = json!({"chat-0": {"longest_matched": 500, "GPU": 500}, "chat-1": {"longest_matched": 250, "dp": {"0": 250}}});
    let shapes = [
        rows.clone(),
        json!({"data": rows}),
        json!({"code": 0, "msg": "ok", "results": rows}),
        json!({"matches": [{"instance": "ai/chat-0", "score": 0.5}, {"name": "chat-1", "score": "0.25"}]}),
        json!([["10.0.0.7:8000", 0.5], ["10.0.0.8:8000", 0.25]]),
        json!({"10.0.0.7:8000": 0.5, "10.0.0.8:8000": 0.25, "10.0.0.9:8000": 1.0}),
        json!({"pods": [{"address": "http://10.0.0.7:8000/", "hit_rate": 50}, {"ip": "10.0.0.8", "hit_rate": 25.0}]}),
        json!({"instances": by_name}),
        json!({"default": by_name}),
        json!({"data": {"10.0.0.7": {"matched_tokens": 500}, "10.0.0.8": {"matched_tokens": 250}}}),
    ];
    for shape in shapes {
        assert_eq!(read(&shape), Ok(vec![(1, 500), (2, 250)]), "{shape}");
    }
}

#[test]
fn one_row_alone_is_an_answer() {
    assert_eq!(
        read(&json!({"endpoint": "10.0.0.8:8000", "score": 1})),
        Ok(vec![(2, 1_000)])
    );
}

#[test]
fn an_answer_without_any_holder_is_valid() {
    for answer in [
        json!([]),
        json!({}),
        json!({"data": []}),
        json!({"instances": {}}),
        json!({"10.0.0.7": 0.0}),
    ] {
        assert_eq!(read(&answer), Ok(vec![]), "{answer}");
    }
}

#[test]
fn unknown_instances_are_distinguished_from_malformed_entries() {
    assert_eq!(read(&json!({"10.9.9.9": 0.5})), Err(LookupOutcome::Unknown));
    assert_eq!(
        read(&json!([{"pod_ip": "10.0.0.7", "match_rate": -0.5}])),
        Err(LookupOutcome::Unknown)
    );
    assert_eq!(
        read(&json!({"error": "no such model"})),
        Err(LookupOutcome::Garbage)
    );
    assert_eq!(
        hits(b"<html>", &lookup(), &MatchSort::default()),
        Err(LookupOutcome::Garbage)
    );
}

#[test]
fn a_host_that_two_candidates_share_names_neither() {
    assert_eq!(
        read(&json!({"127.0.0.1": 0.5})),
        Err(LookupOutcome::Unknown)
    );
    assert_eq!(read(&json!({"127.0.0.1:9002": 0.5})), Ok(vec![(4, 500)]));
    assert_eq!(read(&json!({"fd00::1": 0.5})), Ok(vec![(5, 500)]));
}

#[test]
fn of_several_ranks_the_best_counts() {
    let ranks = json!([{"ip": "10.0.0.7", "matched_tokens": 64, "dp": 0}, {"ip": "10.0.0.7", "matched_tokens": 128, "dp": 1}]);
    assert_eq!(read(&ranks), Ok(vec![(1, 128)]));
}

#[test]
fn a_score_means_what_its_key_and_size_say() {
    let cases = [
        ("match_rate", 0.5, Some(500)),
        ("match_rate", 1.0, Some(1_000)),
        ("hit_rate", 42.0, Some(420)),
        ("hit_rate", 420.0, None),
        ("score", 0.1, Some(100)),
        ("score", 64.0, Some(64)),
        ("", 64.0, Some(64)),
        ("longest_matched", 1.0, Some(1)),
        ("matched_tokens", 4_096.0, Some(1_000)),
        ("score", f64::NAN, None),
    ];
    for (key, score, expected) in cases {
        assert_eq!(tokens(key, score, PROMPT_TOKENS), expected, "{key} {score}");
    }
}

#[test]
fn keys_can_be_configured() {
    let settings = MatchSort {
        id_keys: vec!["who".into()],
        score_keys: vec!["warmth".into()],
    };
    let answer =
        json!([{"who": "10.0.0.7", "warmth": 0.5, "ip": "10.0.0.8", "score": 1.0}]).to_string();
    let hit = CacheHit {
        endpoint: EndpointId(1),
        cached: CachedTokens::on_gpu(500),
        source: CacheSource::KvManager,
        at_least: false,
    };
    assert_eq!(hits(answer.as_bytes(), &lookup(), &settings), Ok(vec![hit]));
}

fn any_json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        Just("data"),
        Just("instances"),
        Just("ip"),
        Just("score"),
        Just("match_rate"),
        Just("longest_matched"),
        Just("10.0.0.7"),
        Just("10.0.0.8:8000"),
        Just("chat-1"),
        Just("x"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..2_000u32).prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((word.clone(), inner), 0..6).prop_map(|entries| {
                Value::Object(
                    entries
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect(),
                )
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_document_gives_at_most_one_hit_per_candidate_and_no_more_tokens_than_the_prompt_has(answer in any_json()) {
        let hits = read(&answer).unwrap_or_default();
        prop_assert!(hits.windows(2).all(|pair| pair[0].0 < pair[1].0));
        prop_assert!(hits.iter().all(|(_, tokens)| (1..=PROMPT_TOKENS).contains(tokens)));
    }

    #[test]
    fn any_bytes_are_survived(answer in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _either = hits(&answer, &lookup(), &MatchSort::default());
    }
}
