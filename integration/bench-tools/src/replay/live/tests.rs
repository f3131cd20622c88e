//! A small trace through real planes and engines, beside its simulation.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::Parser;

use super::*;
use crate::report::Served;
use crate::simulate::policies::{Policy, Setup};
use crate::simulate::run;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    replay: ReplayArgs,
}

/// One conversation, each turn long after the one before it, and each longer by two blocks.
fn trace() -> tempfile::NamedTempFile {
    let mut lines = String::new();
    for turn in 1..=6 {
        let blocks: Vec<usize> = (0..turn * 2).collect();
        let (at, length) = (turn * 2_000, turn * 1_024 + 100);
        let line = format!(
            "{{\"timestamp\":{at},\"input_length\":{length},\"output_length\":7,\"hash_ids\":{blocks:?}}}"
        );
        writeln!(lines, "{line}").unwrap();
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(lines.as_bytes()).unwrap();
    file
}

fn args(trace: &tempfile::NamedTempFile, rest: &str) -> ReplayArgs {
    let line = format!("replay {} {rest}", trace.path().display());
    Command::try_parse_from(line.split_whitespace())
        .unwrap()
        .replay
}

#[tokio::test]
async fn the_router_serves_what_the_simulation_serves() {
    let trace = trace();
    let args = args(&trace, "--policies round-robin --servers 2 --compress 20");
    let comparison = replay(&args).await.unwrap();
    let [
        Row {
            policy, outcome, ..
        },
    ] = &comparison.rows[..]
    else {
        panic!("one policy")
    };
    let settings = args.live.fleet.settings(1.0, 7);
    let traffic = Traffic::open(trace.path(), None, usize::MAX).unwrap();
    let setup = Setup::of(&settings, 512);
    let mut dispatcher = Policy::named("round-robin").unwrap().dispatcher(setup, 1);
    let simulated = run(&settings, &traffic, &mut *dispatcher, &mut |_| ()).unwrap();
    let tokens = |outcome: &Outcome| {
        let of = outcome.served.iter();
        of.map(|request| {
            (
                request.prompt_tokens,
                request.cached_tokens,
                request.output_tokens,
            )
        })
        .collect::<Vec<_>>()
    };
    assert_eq!(
        (policy.as_str(), tokens(outcome)),
        ("round-robin", tokens(&simulated))
    );
    assert!(
        outcome
            .served
            .iter()
            .all(|request| request.server.is_some_and(|server| server < 2))
    );
    assert!(
        outcome.ttft.mean >= simulated.ttft.mean,
        "the router itself takes time too"
    );
}

#[tokio::test]
async fn requests_are_split_between_engines_of_a_pair() {
    let trace = trace();
    let args = args(
        &trace,
        "--policies kv-aware --prefill 2 --decode 1 --compress 20",
    );
    let comparison = replay(&args).await.unwrap();
    let [Row { outcome, .. }] = &comparison.rows[..] else {
        panic!("one policy")
    };
    assert_eq!(outcome.served.len(), 6);
    assert!(outcome.split > 0.0 && outcome.goodput.share > 0.0);
    let decode = |request: &Served| request.server == Some(2);
    assert!(outcome.served.iter().all(decode), "the answer's endpoint");
}

#[tokio::test]
async fn a_strategy_that_the_router_does_not_have_is_refused_before_anything_starts() {
    let trace = trace();
    let error = replay(&args(&trace, "--policies round-robin,best"))
        .await
        .unwrap_err();
    assert!(matches!(error, LiveReplayError::Policy(_)), "{error}");
}

#[test]
fn a_target_and_a_fleet_of_its_own_exclude_each_other() {
    let parse = |line: &str| Command::try_parse_from(line.split(' ')).is_ok();
    assert!(
        parse("replay t --policies random --html page.html") && parse("replay t --target http://a")
    );
    for wrong in [
        "--policies random --target http://a",
        "--policies random --shrink 2",
        "--html page.html",
    ] {
        assert!(!parse(&format!("replay t {wrong}")), "{wrong}");
    }
}
