//! The router of these tests: the built binary, in front of engines of the test's own process.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use hermes_engine_sim::EngineHandle;
use reqwest::Response;
use serde_json::{Value as Json, json};
use tokio::time::{Instant, sleep};

/// For what ends by itself, on a machine that has much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Far more than a process prints.
const LINES: usize = 1_024;

/// The credentials of the client. Only the engine may receive them.
pub(crate) const KEY: &str = "the-key-that-only-the-engine-may-see";

/// The client's `tracestate`.
pub(crate) const STATE: &str = "vendor=1";

/// A trace that no test looks at.
const UNSAMPLED: &str = "00-0000000000000000000000000000feed-b7ad6b7169203331-00";

/// `hermes serve` in front of engines of this process; killed when dropped.
pub(crate) struct Router {
    child: Child,
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    /// Read on, so that the process can print.
    _out: Receiver<String>,
}

impl Router {
    /// Starts it with these variables alone, and waits until it knows its engines.
    pub(crate) async fn start(
        name: &str,
        strategy: &str,
        engines: &[&EngineHandle],
        variables: &[(&str, &str)],
    ) -> Self {
        let urls: Vec<String> = engines.iter().map(|engine| engine.url()).collect();
        let pool = json!({
            "name": "chat", "endpoints": urls, "strategy": strategy, "scoreDeadline": "5s",
        });
        Self::with_pool(name, &pool, variables).await
    }

    /// Starts it with this pool, and waits until it knows its engines.
    pub(crate) async fn with_pool(name: &str, pool: &Json, variables: &[(&str, &str)]) -> Self {
        hermes_runtime::crypto::install_default_crypto();
        let config = json!({ "pools": [pool] });
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("trace-{name}.yaml"));
        std::fs::write(&path, config.to_string()).expect("a directory to write to");
        let any = "127.0.0.1:0";
        let mut command = Command::new(env!("CARGO_BIN_EXE_hermes"));
        command
            .args(["serve", "--listen", any, "--admin", any, "--config"])
            .arg(path)
            .env_clear();
        command
            .env("HERMES_LOG", "off")
            .envs(variables.iter().copied());
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let out = lines(child.stdout.take().expect("it is piped"));
        let line = out.recv_timeout(PATIENCE).expect("a first line");
        let url = line
            .strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("an address, not: {line}"))
            .to_owned();
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .tls_certs_only([]);
        let router = Self {
            child,
            url,
            http: http.build().expect("a plain client"),
            _out: out,
        };
        router.ready().await;
        router
    }

    /// Waits for the models, in an unsampled trace that is not exported.
    async fn ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let models = self
                .http
                .get(format!("{}/v1/models", self.url))
                .header("traceparent", UNSAMPLED);
            let response = models.send().await.expect("an answer");
            if response.status() == 200
                && response.text().await.expect("a body").contains("\"sim\"")
            {
                return;
            }
            assert!(Instant::now() < deadline, "the router knows no model");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// A chat with secrets, as a part of the client's trace.
    pub(crate) async fn chat(&self, traceparent: &str, body: &Json) -> Response {
        let chat = self
            .http
            .post(format!("{}/v1/chat/completions", self.url))
            .json(body)
            .bearer_auth(KEY);
        chat.header("traceparent", traceparent)
            .header("tracestate", STATE)
            .send()
            .await
            .expect("an answer")
    }

    /// Asks it to end as an operator would, and answers how it ended, and how long that took.
    pub(crate) async fn stop(mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        let terminate = format!("kill -TERM {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &terminate]).status();
        assert!(sent.is_ok_and(|status| status.success()));
        loop {
            if let Some(status) = self.child.try_wait().expect("it is a child") {
                return (status, began.elapsed());
            }
            assert!(began.elapsed() < PATIENCE, "still running");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // Ended already, in most tests.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = sync_channel(LINES);
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        // A test that has ended reads no more.
        lines.try_for_each(|line| sender.send(line))
    });
    receiver
}
