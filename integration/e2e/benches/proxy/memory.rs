//! Memory of a proxy at rest, and what each open stream adds.

use std::process::Stdio;
use std::time::Duration;

use hermes_bench::load::client::{Call, Client, Limits, Target};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::backend::{Backend, HELD_MODEL};
use crate::contender::Contender;
use crate::{BenchError, failed, say};

/// Streams held open.
const STREAMS: u64 = 2_000;

/// How long they may take to open.
const DEADLINE: Duration = Duration::from_secs(20);

/// What was measured.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Memory {
    /// Resident after the start and one request.
    pub idle_kib: u64,
    /// Resident with [`STREAMS`] streams open; absent when they did not all open.
    pub open_kib: Option<u64>,
}

impl Memory {
    /// What one open stream adds; negative where a proxy gave memory back after its start.
    pub fn per_stream_kib(self) -> Option<f64> {
        Some((self.open_kib? as f64 - self.idle_kib as f64) / STREAMS as f64)
    }
}

/// Measures a contender that has just started.
pub async fn measure(contender: &Contender, backends: &[Backend]) -> Result<Memory, BenchError> {
    let idle_kib = contender.usage().resident_kib;
    if contender.is_direct() {
        return Ok(Memory::default());
    }
    say(&format!("{}: opening {STREAMS} streams", contender.name));
    let own = std::env::current_exe().map_err(failed("find this binary"))?;
    // Dropping the process closes all streams at once.
    let _load = Command::new("/bin/sh")
        .args(["-c", r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#])
        .arg(own)
        .args([
            "load",
            "--json",
            "--workload",
            "stream",
            "--timeout",
            "60",
            "--target",
            &contender.url,
        ])
        .args([
            "--model",
            HELD_MODEL,
            "--connections",
            &STREAMS.to_string(),
            "--count",
            &STREAMS.to_string(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed("start the load process"))?;
    let deadline = Instant::now() + DEADLINE;
    let mut open = 0;
    while open < STREAMS && Instant::now() < deadline {
        sleep(Duration::from_millis(100)).await;
        open = held(backends).await;
    }
    let open_kib = (open >= STREAMS).then(|| contender.usage().resident_kib);
    if open_kib.is_none() {
        say(&format!(
            "{}: only {open} of {STREAMS} streams opened within {DEADLINE:?}",
            contender.name
        ));
    }
    Ok(Memory { idle_kib, open_kib })
}

/// Streams that the backends hold open.
async fn held(backends: &[Backend]) -> u64 {
    let mut all = 0;
    for backend in backends {
        let Ok(target) = Target::parse(&backend.url) else {
            continue;
        };
        let client = Client::new(target, Limits::answer_within(Duration::from_secs(5)));
        let call = Call {
            path: "/held",
            body: bytes::Bytes::from_static(b"{}"),
            keep_text: true,
        };
        let answer = client.send(call, Instant::now()).await;
        all += answer
            .text
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0);
    }
    all
}
