use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::cache_sources::kv_manager::conductor::{Encoding, fixture};

fn hits(encoding: Encoding, answer: &[u8]) -> Result<Vec<(u64, [u32; 3])>, LookupOutcome> {
    let conductor = Conductor {
        encoding,
        ..Conductor::default()
    };
    let hits = conductor.hits(answer, &fixture::lookup())?;
    Ok(hits
        .iter()
        .map(
            |CacheHit {
                 endpoint, cached, ..
             }| (endpoint.0, [cached.gpu, cached.host, cached.disk]),
        )
        .collect())
}

/// What is made of `answer`, which has to be the same in both encodings.
fn read(answer: &Value) -> Result<Vec<(u64, [u32; 3])>, LookupOutcome> {
    let json = hits(Encoding::Json, answer.to_string().as_bytes());
    let msgpack = rmp_serde::to_vec_named(answer).expect("msgpack has every JSON value");
    assert_eq!(hits(Encoding::Msgpack, &msgpack), json, "{answer}");
    json
}

#[test]
fn boundaries_are_taken_as_they_are() {
    let answer = json!({"instances": {
        "10.0.0.1:8000": {"longest_matched": 64, "gpu": 32, "dp": {"0": 32}, "cpu": 48, "disk": 64,
                          "rank_matches": {"0": {"gpu": 32, "cpu": 48, "disk": 64}}},
        "chat-2": {"longest_matched": 0, "gpu": 0, "cpu": 0, "disk": 0, "dp": {"0": 0}},
        "10.0.0.3": {"gpu": 160, "cpu": 160, "disk": 160},
    }});
    assert_eq!(
        read(&answer),
        Ok(vec![(1, [32, 48, 64]), (3, [160, 160, 160])])
    );
}

#[test]
fn counts_of_tiers_become_what_is_certain_of_them() {
    let answer = json!({"default": {
        "ai/chat-1": {"longest_matched": 144, "GPU": 128, "DP": {"0": 128, "1": 144}, "CPU": 144, "DISK": 0},
        "ai/chat-2": {"longest_matched": 144, "GPU": 32, "CPU": 48, "DISK": 64},
    }});
    assert_eq!(
        read(&answer),
        Ok(vec![(1, [128, 144, 144]), (2, [32, 48, 144])])
    );
}

#[test]
fn the_first_draft_is_read_too() {
    let answer = json!({"data": {"chat-1": {"matched_tokens": 100, "L1": {"dp0": 10, "dp1": 20}, "L2": 60, "L3": 10}}});
    assert_eq!(read(&answer), Ok(vec![(1, [20, 60, 100])]));
}

#[test]
fn an_answer_without_any_holder_is_valid() {
    for answer in [
        json!({}),
        json!({"instances": {}}),
        json!({"default": {}}),
        json!({"data": {}}),
    ] {
        assert_eq!(read(&answer), Ok(vec![]), "{answer}");
    }
}

#[test]
fn numbers_that_cannot_be_true_make_an_answer_worthless() {
    let implausible = [
        json!({"gpu": 176, "cpu": 176, "disk": 176}),
        json!({"gpu": 32, "cpu": 16, "disk": 64}),
        json!({"gpu": 32, "cpu": 48, "disk": 40}),
        json!({"longest_matched": 64, "gpu": 32, "cpu": 48, "disk": 48}),
        json!({"gpu": -16, "cpu": 0, "disk": 0}),
        json!({"gpu": 1.5, "cpu": 16, "disk": 16}),
        json!({"gpu": 32, "cpu": 32, "disk": 32, "dp": {"0": 16}, "rank_matches": {"0": {"gpu": 32}}}),
    ];
    for value in implausible {
        let answer = json!({"instances": {"chat-1": {"gpu": 16, "cpu": 16, "disk": 16}, "elsewhere": value}});
        assert_eq!(read(&answer), Err(LookupOutcome::Implausible), "{answer}");
    }
    let too_much = json!({"default": {"chat-1": {"longest_matched": 161, "GPU": 16}}});
    assert_eq!(read(&too_much), Err(LookupOutcome::Implausible));
}

#[test]
fn one_instance_with_numbers_that_cannot_be_true_hides_no_others() {
    let answer = |instances: usize| {
        let rows = (0..instances).map(|instance| {
            let disk = if instance == 0 { 1_000 } else { 16 };
            let row = json!({"gpu": 16, "cpu": 16, "disk": disk});
            (format!("elsewhere-{instance}"), row)
        });
        let mut rows: serde_json::Map<_, _> = rows.collect();
        rows.insert(
            "chat-1".to_owned(),
            json!({"gpu": 16, "cpu": 16, "disk": 16}),
        );
        json!({"instances": rows})
    };
    assert_eq!(read(&answer(7)), Ok(vec![(1, [16, 16, 16])]));
    assert_eq!(read(&answer(6)), Err(LookupOutcome::Implausible));
}

#[test]
fn unknown_instances_are_distinguished_from_malformed_entries() {
    assert_eq!(
        read(&json!({"instances": {"elsewhere": {"gpu": 16}}})),
        Err(LookupOutcome::Unknown)
    );
    for nonsense in [
        json!({"error": "x"}),
        json!([]),
        json!("x"),
        json!({"other-tenant": {"i": {"GPU": 16}}}),
    ] {
        assert_eq!(read(&nonsense), Err(LookupOutcome::Garbage), "{nonsense}");
    }
    assert_eq!(hits(Encoding::Json, b"<html>"), Err(LookupOutcome::Garbage));
    assert_eq!(
        hits(Encoding::Msgpack, b"\xc1"),
        Err(LookupOutcome::Garbage)
    );
}

#[test]
fn ranks_may_be_numbers_in_msgpack() {
    // {"instances": {"chat-1": {"gpu": 16, "dp": {0: 16}}}}
    let answer = b"\x81\xa9instances\x81\xa6chat-1\x82\xa3gpu\x10\xa2dp\x81\x00\x10";
    assert_eq!(hits(Encoding::Msgpack, answer), Ok(vec![(1, [16, 16, 16])]));
}

fn any_row() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        (0..200_i64).prop_map(|n| json!(n)),
        Just(json!(-1)),
        Just(json!(0.5)),
        Just(json!(null)),
        Just(json!({"0": 16}))
    ];
    let key = prop_oneof![
        Just("longest_matched"),
        Just("gpu"),
        Just("cpu"),
        Just("disk"),
        Just("GPU"),
        Just("CPU"),
        Just("DISK"),
        Just("dp"),
        Just("rank_matches"),
    ];
    proptest::collection::btree_map(key, number, 0..6).prop_map(|fields| json!(fields))
}

proptest! {
    #[test]
    fn a_hit_is_never_more_than_was_asked_and_its_boundaries_are_in_order(
        place in prop_oneof![Just("instances"), Just("default"), Just("data"), Just("x")],
        rows in proptest::collection::btree_map(prop_oneof![Just("chat-1"), Just("10.0.0.2:8000"), Just("x")], any_row(), 0..4),
    ) {
        for (_, [gpu, host, disk]) in read(&json!({place: rows})).unwrap_or_default() {
            prop_assert!(gpu <= host && host <= disk && disk > 0 && disk <= 160);
        }
    }

    #[test]
    fn any_bytes_are_survived(answer in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = hits(Encoding::Json, &answer);
        let _ = hits(Encoding::Msgpack, &answer);
    }
}
