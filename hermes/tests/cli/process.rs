//! A `hermes` that runs, and what a user does with it.

use std::{
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use hermes_bench::load::client::{Client, Limits, Target};
use hermes_bench::load::exchange::{Exchange, Outcome};
use hermes_bench::load::workload::{Message, Shape};
use tokio::time::Instant;

/// For what ends by itself, on a machine that has much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Lines that wait to be read by a test.
const LINES: usize = 1_024;

/// A running `hermes`; it is killed when dropped.
pub(crate) struct Hermes {
    child: Child,
    pub(crate) out: Receiver<String>,
    pub(crate) err: Receiver<String>,
}

/// A `hermes` that has ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Hermes {
    /// Runs without the variables of this process, which could be settings.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hermes"));
        command
            .args(args)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary is built");
        let out = lines(child.stdout.take().expect("it is piped"));
        let err = lines(child.stderr.take().expect("it is piped"));
        Self { child, out, err }
    }

    /// Runs to the end.
    pub(crate) fn run(args: &[&str]) -> Ended {
        Self::start(args).end()
    }

    /// The address in the first line, `listening on http://…`.
    pub(crate) fn url(&self) -> String {
        let line = self.out.recv_timeout(PATIENCE).expect("a first line");
        line.strip_prefix("listening on ")
            .unwrap_or_else(|| panic!("an address, not: {line}"))
            .to_owned()
    }

    /// The port of a prefill engine's side channel: `…found by decode engines at ADDRESS; …`.
    pub(crate) fn side_channel_port(&self) -> String {
        let line = self.out.recv_timeout(PATIENCE).expect("a second line");
        let address = line.split(';').next().expect("one part");
        let port = address.rsplit(':').next().expect("one part");
        port.to_owned()
    }

    /// Asks it to end, as an operator would.
    pub(crate) fn terminate(self) -> Ended {
        self.signal("TERM")
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(self) -> Ended {
        self.signal("INT")
    }

    fn signal(self, name: &str) -> Ended {
        let signal = format!("kill -{name} {}", self.child.id());
        let sent = Command::new("sh").args(["-c", &signal]).status();
        assert!(sent.is_ok_and(|status| status.success()));
        self.end()
    }

    /// Waits for the end of both streams, and then of the process.
    pub(crate) fn end(mut self) -> Ended {
        let (out, err) = (rest(&self.out), rest(&self.err));
        let status = self.child.wait().expect("it has not been waited for");
        Ended { status, out, err }
    }
}

impl Drop for Hermes {
    fn drop(&mut self) {
        // Ended already, in most tests.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(LINES);
    std::thread::spawn(move || {
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        // A test that has ended reads no more.
        lines.into_iter().try_for_each(|line| sender.send(line))
    });
    receiver
}

fn rest(lines: &Receiver<String>) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut text = String::new();
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => text.extend([&*line, "\n"]),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return text,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                panic!("still running; so far:\n{text}")
            }
        }
    }
}

/// A chat of one message, as a stream.
pub(crate) async fn chat(url: &str, model: &str) -> Exchange {
    let client = Client::new(
        Target::parse(url).expect("a URL"),
        Limits::answer_within(PATIENCE),
    );
    let shape = Shape {
        model: model.to_owned(),
        stream: true,
        ignore_eos: false,
    };
    let mut call = shape.chat(
        &[Message {
            role: "user",
            content: "Good morning!".to_owned(),
        }],
        8,
    );
    call.keep_text = true;
    client.send(call, Instant::now()).await
}

/// Chats until the router knows its engine, which takes a moment after its start.
pub(crate) async fn chat_when_ready(url: &str) -> Exchange {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let exchange = chat(url, "sim").await;
        let starting = matches!(exchange.outcome, Outcome::Status(404 | 503));
        if !starting || Instant::now() > deadline {
            return exchange;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).expect("a directory to write to");
    path
}
