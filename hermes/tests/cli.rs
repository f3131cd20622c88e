//! The built binary as a user meets it: processes, exit codes, what is printed, and a chat through
//! real sockets.

#[path = "cli/pair.rs"]
mod pair;
#[path = "cli/process.rs"]
mod process;

use std::path::PathBuf;

use hermes_bench::load::exchange::Outcome;
use process::*;

#[test]
fn check_says_what_a_good_file_means() {
    let path = file(
        "good.yaml",
        "pools: [{name: chat, models: [m], endpoints: ['http://10.0.0.7:8000']}]",
    );
    let Ended { status, out, err } = Hermes::run(&["check", &path.to_string_lossy()]);
    assert!(status.success(), "{err}");
    assert!(
        out.contains("pool chat")
            && out.contains("http://10.0.0.7:8000")
            && out.contains("kv-aware"),
        "{out}"
    );
}

#[test]
fn check_lists_every_mistake_with_its_path() {
    let path = file(
        "bad.yaml",
        "pools: [{name: Chat, endpoint: ['http://a:1']}]\nlimits: {maxBodyByte: 1}",
    );
    let Ended { status, out, err } = Hermes::run(&["check", &path.to_string_lossy()]);
    assert_eq!((status.code(), &*out), (Some(1), ""));
    for mistake in ["pools[0].name", "pools[0].endpoint", "limits.maxBodyByte"] {
        assert!(err.contains(mistake), "{mistake} in\n{err}");
    }
}

#[test]
fn check_says_whether_a_tokenizer_is_usable() {
    let check = |directory: &str| {
        let path = file(
            &format!("tokenizer-{}.yaml", directory.len()),
            &format!(
                "pools: [{{name: chat, endpoints: ['http://a:1'], tokenizer: {{path: '{directory}'}}, kvManager: {{url: 'http://m'}}}}]"
            ),
        );
        Hermes::run(&["check", &path.to_string_lossy()])
    };
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../control-plane/testdata/tokenizer"
    );
    let Ended { status, out, err } = check(fixture);
    assert!(
        status.success() && out.contains("tokenizer of pool chat: 306 tokens, a chat template"),
        "{out}{err}"
    );
    let Ended { status, err, .. } = check("/nowhere");
    assert_eq!(status.code(), Some(1));
    assert!(
        err.contains("tokenizer of pool chat: /nowhere: No such file"),
        "{err}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let Ended { status, err, .. } = Hermes::run(&["check", "/nowhere/hermes.yaml"]);
    assert_eq!(status.code(), Some(1));
    assert!(err.contains("cannot read /nowhere/hermes.yaml"), "{err}");
}

#[test]
fn arguments_that_are_wrong_are_refused_with_a_hint() {
    let cases = [
        (vec!["serve"], 2, "--endpoint"),
        (
            vec![
                "serve",
                "--endpoint",
                "127.0.0.1:1",
                "--strategy",
                "fastest",
            ],
            1,
            "--strategy",
        ),
        (
            vec![
                "serve",
                "--config",
                "/nowhere/hermes.yaml",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
            ],
            1,
            "/nowhere/hermes.yaml",
        ),
        (
            vec!["serve", "--endpoint", "http://a:1", "--listen", "8000"],
            2,
            "--listen",
        ),
        (vec!["load", "--target", "https://a"], 1, "http://HOST"),
        (
            vec!["replay", "/nowhere/trace.jsonl"],
            1,
            "/nowhere/trace.jsonl",
        ),
        (vec!["engine", "--blocks", "0"], 1, "block"),
        (vec!["server"], 2, "serve"),
    ];
    for (args, code, hint) in cases {
        let Ended { status, err, .. } = Hermes::run(&args);
        assert_eq!(status.code(), Some(code), "{args:?}: {err}");
        assert!(err.contains(hint), "{args:?}: {err}");
    }
}

#[test]
fn version_help_and_completions_are_printed() {
    let version = Hermes::run(&["--version"]);
    assert_eq!(
        version.out.trim(),
        concat!("hermes ", env!("CARGO_PKG_VERSION"))
    );
    let help = Hermes::run(&["serve", "--help"]);
    assert!(
        help.status.success() && help.out.contains("Examples:"),
        "{}",
        help.out
    );
    let completions = Hermes::run(&["completions", "bash"]);
    assert!(
        completions.status.success() && completions.out.contains("_hermes"),
        "{}",
        completions.out
    );
}

#[tokio::test]
async fn an_engine_behind_serve_answers_a_chat_and_both_end_when_asked() {
    let engine = Hermes::start(&["engine", "--listen", "127.0.0.1:0"]);
    let engine_url = engine.url();
    let router = Hermes::start(&[
        "serve",
        "--endpoint",
        &engine_url,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    let url = router.url();

    let exchange = chat_when_ready(&url).await;
    assert_eq!(exchange.outcome, Outcome::Ok);
    assert!(exchange.text.is_some_and(|text| !text.is_empty()));
    assert_eq!(
        chat(&url, "another").await.outcome,
        Outcome::Status(404),
        "a model without endpoints"
    );

    let report = Hermes::run(&[
        "load", "--target", &url, "--model", "sim", "--count", "5", "--tokens", "2", "--json",
    ]);
    assert!(
        report.status.success() && report.out.contains("\"ok\":5"),
        "{}{}",
        report.out,
        report.err
    );

    for process in [router, engine] {
        let Ended { status, err, .. } = process.terminate();
        assert!(status.success(), "{err}");
    }
}

#[tokio::test]
async fn requests_of_a_router_are_recorded_as_a_trace_that_can_be_replayed_and_simulated() {
    let engine = Hermes::start(&["engine", "--listen", "127.0.0.1:0"]);
    let router = Hermes::start(&[
        "serve",
        "--endpoint",
        &engine.url(),
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    let url = router.url();
    let line = router.out.recv_timeout(PATIENCE).expect("a second line");
    let admin_url = line
        .split(' ')
        .nth(2)
        .expect("admin on http://…")
        .to_owned();
    assert_eq!(chat_when_ready(&url).await.outcome, Outcome::Ok);

    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("recorded.jsonl");
    let file = path.to_string_lossy();
    let recorder = Hermes::start(&[
        "record", "--admin", &admin_url, "--limit", "5", "--output", &file,
    ]);
    let begun = recorder.err.recv_timeout(PATIENCE).expect("a first line");
    assert!(
        begun.contains(&admin_url) && begun.contains("Ctrl-C"),
        "{begun}"
    );
    for _ in 0..5 {
        assert_eq!(chat(&url, "sim").await.outcome, Outcome::Ok);
    }
    let Ended { status, err, .. } = recorder.end();
    assert!(
        status.success() && err.contains("recorded 5 requests to "),
        "{err}"
    );

    assert_replay_and_simulation(&file, &url);
    record_to_stdout(&admin_url, &url).await;
}

fn assert_replay_and_simulation(file: &str, url: &str) {
    let replayed = Hermes::run(&["replay", file, "--target", url, "--model", "sim", "--json"]);
    assert!(
        replayed.status.success() && replayed.out.contains("\"ok\":5"),
        "{}{}",
        replayed.out,
        replayed.err
    );

    let simulated = Hermes::run(&["simulate", file, "--policies", "round-robin", "--json"]);
    assert!(
        simulated.status.success() && simulated.out.contains("\"hit_rate\""),
        "{}{}",
        simulated.out,
        simulated.err
    );
}

/// Records one request to stdout, and ends the recorder by SIGINT.
async fn record_to_stdout(admin_url: &str, url: &str) {
    let piped = Hermes::start(&["record", "--admin", admin_url]);
    piped.err.recv_timeout(PATIENCE).expect("it has begun");
    assert_eq!(chat(url, "sim").await.outcome, Outcome::Ok);
    let line = piped.out.recv_timeout(PATIENCE).expect("a record");
    assert!(
        line.contains("\"hash_ids\":[") && !line.contains("morning"),
        "{line}"
    );
    let Ended { status, err, .. } = piped.interrupt();
    assert!(
        status.success() && err.contains("recorded 1 requests"),
        "{err}"
    );
}

#[test]
fn recording_from_an_address_that_is_no_proxy_names_the_right_flag() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("it is bound");
    let unreachable = format!("http://{closed}");
    let Ended { status, err, .. } = Hermes::run(&["record", "--admin", &unreachable]);
    assert_eq!(status.code(), Some(1));
    assert!(
        err.contains(&unreachable) && err.contains("--admin"),
        "{err}"
    );
    let engine = Hermes::start(&["engine", "--listen", "127.0.0.1:0"]);
    let Ended { status, err, .. } = Hermes::run(&["record", "--admin", &engine.url()]);
    assert_eq!(status.code(), Some(1));
    assert!(err.contains("404") && err.contains("--admin"), "{err}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_flag() {
    let engine = Hermes::start(&["engine", "--listen", "127.0.0.1:0"]);
    let url = engine.url();
    let taken = url.trim_start_matches("http://");
    let Ended { status, err, .. } = Hermes::run(&[
        "serve",
        "--endpoint",
        &url,
        "--listen",
        taken,
        "--admin",
        "127.0.0.1:0",
    ]);
    assert_eq!(status.code(), Some(1));
    assert!(err.contains("--listen") && err.contains(taken), "{err}");
    let Ended { status, err, .. } = Hermes::run(&[
        "serve",
        "--endpoint",
        &url,
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--control-plane-listen",
        taken,
    ]);
    assert_eq!(status.code(), Some(1));
    assert!(err.contains("--control-plane-listen"), "{err}");
}

#[test]
fn a_quick_demo_on_a_pipe_ends_with_a_comparison() {
    let Ended { status, out, err } = Hermes::run(&["demo", "--quick"]);
    assert!(status.success(), "{out}{err}");
    for part in [
        "round-robin",
        "least-request",
        "kv-aware",
        "TTFT p99",
        "cache hit rate",
        "errors",
    ] {
        assert!(out.contains(part), "{part} in\n{out}{err}");
    }
}

#[test]
fn a_demo_that_is_asked_to_end_sums_up_what_it_has_seen() {
    let demo = Hermes::start(&["demo"]);
    demo.out.recv_timeout(PATIENCE).expect("a first line");
    let Ended { status, out, err } = demo.terminate();
    assert!(status.success(), "{out}{err}");
    assert!(
        out.contains("round-robin") && out.contains("Ended before"),
        "{out}{err}"
    );
}
