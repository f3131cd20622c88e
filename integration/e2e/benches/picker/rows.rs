//! The rows of the table, one measurement each.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use hermes_bench::load::Report;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::backend::{Backend, MODEL};
use crate::chat_engine::ChatEngine;
use crate::gateway::GatewayReport;
use crate::process::Tree;
use crate::scene::{self, Served};
use crate::{BenchArgs, BenchError, Row, failed, say};

/// Streams at once: 50 a second that last 5,000 tokens of 10 ms.
const STREAMS: usize = 2_500;
/// Tokens a second of that load.
const TOKENS_PER_SECOND: f64 = 250_000.0;

/// How long and how often to measure.
#[derive(Clone, Copy)]
struct Plan {
    rounds: usize,
    seconds: u64,
}

/// What is measured on.
struct Bench {
    hermes: PathBuf,
    plan: Plan,
}

/// Measures all rows that are wanted and prints each.
pub async fn measure(args: &BenchArgs) -> Result<(), BenchError> {
    let (rounds, seconds) = if args.quick { (1, 2) } else { (3, 5) };
    let bench = Bench {
        hermes: args.hermes.clone().unwrap_or_else(scene::default_binary),
        plan: Plan { rounds, seconds },
    };
    let is_wanted = |row| args.only.is_empty() || args.only.contains(&row);
    if is_wanted(Row::Chats) {
        bench.chats().await?;
    }
    if is_wanted(Row::Small) {
        bench.small().await?;
    }
    if is_wanted(Row::Long) {
        bench.long().await?;
    }
    if is_wanted(Row::Asked) {
        bench.asked().await?;
    }
    if is_wanted(Row::Streams) {
        bench.streams().await?;
    }
    Ok(())
}

impl Bench {
    async fn chats(&self) -> Result<(), BenchError> {
        let start = || ChatEngine::start(&self.hermes).map_err(failed("start an engine"));
        let engines = [start()?, start()?];
        let ports = engines.each_ref().map(|engine| engine.port);
        let picker = scene::picker(&self.hermes, &ports).await?;
        let envoy = scene::asking(picker.port).await?;
        let load = [
            "--workload",
            "stream",
            "--prompt-bytes",
            "16000",
            "--tokens",
            "60",
        ];
        let paced = ["--rate", "40", "--connections", "200"];
        let load = [&load[..], &paced[..]].concat();
        self.load(&envoy, &load).await?;
        let mut rounds = Vec::new();
        for _ in 0..self.plan.rounds {
            rounds.push(self.watched(&picker, &envoy, &load).await?);
        }
        let of = |number: fn(&Watched) -> f64| median(rounds.iter().map(number));
        print(&format!(
            "chats of 4,000 prompt tokens and 60 streamed ones, 40 a second: CPU ms a chat: picker {:.2}, Envoy {:.2}; {:.0} failed",
            of(|round| round.picker_us) / 1e3,
            of(|round| round.envoy_us) / 1e3,
            of(|round| round.failed),
        ))
    }

    async fn small(&self) -> Result<(), BenchError> {
        let backends = [Backend::start().await?, Backend::start().await?];
        let ports = backends.each_ref().map(port);
        let picker = scene::picker(&self.hermes, &ports).await?;
        let (asking, alone) = (
            scene::asking(picker.port).await?,
            scene::alone(&ports).await?,
        );
        let load = ["--workload", "chat", "--connections", "8"];
        for envoy in [&alone, &asking] {
            self.load(envoy, &load).await?;
        }
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..self.plan.rounds {
            without.push(self.watched(&picker, &alone, &load).await?);
            with.push(self.watched(&picker, &asking, &load).await?);
        }
        for (name, rounds) in [("Envoy alone", without), ("Envoy and picker", with)] {
            let of = |number: fn(&Watched) -> f64| median(rounds.iter().map(number));
            print(&format!(
                "small requests × 8, {name}: p50 {:.2} ms, p99 {:.2} ms, {:.0}/s; CPU µs: picker {:.0}, Envoy {:.0}; {:.0} failed",
                of(|round| round.p50_ms),
                of(|round| round.p99_ms),
                of(|round| round.rps),
                of(|round| round.picker_us),
                of(|round| round.envoy_us),
                of(|round| round.failed),
            ))?;
        }
        Ok(())
    }

    async fn long(&self) -> Result<(), BenchError> {
        let backends = [Backend::start().await?, Backend::start().await?];
        let picker = scene::picker(&self.hermes, &backends.each_ref().map(port)).await?;
        let envoy = scene::asking(picker.port).await?;
        let load = ["--workload", "long", "--connections", "200"];
        self.load(&envoy, &load).await?;
        let mut rounds = Vec::new();
        for _ in 0..self.plan.rounds {
            rounds.push(self.watched(&picker, &envoy, &load).await?);
        }
        let of = |number: fn(&Watched) -> f64| median(rounds.iter().map(number));
        print(&format!(
            "220 KB × 200 through Envoy: {:.0}/s, p50 {:.1} ms; CPU µs: picker {:.0}, Envoy {:.0}; picker {:.0} MiB; {:.0} failed",
            of(|round| round.rps),
            of(|round| round.p50_ms),
            of(|round| round.picker_us),
            of(|round| round.envoy_us),
            of(|round| round.picker_mib),
            of(|round| round.failed),
        ))
    }

    async fn asked(&self) -> Result<(), BenchError> {
        let backends = [Backend::start().await?, Backend::start().await?];
        let picker = scene::picker(&self.hermes, &backends.each_ref().map(port)).await?;
        let script = ["--streams", "200", "--prompt-bytes", "220000"];
        self.gateway(&picker, &script, self.plan.seconds).await?;
        let mut rounds = Vec::new();
        for _ in 0..self.plan.rounds {
            rounds.push(self.gateway(&picker, &script, self.plan.seconds).await?);
        }
        let of = |number: fn(&Asked) -> f64| median(rounds.iter().map(number));
        print(&format!(
            "220 KB × 200 asked: {:.0}/s, p50 {:.1} ms, p99 {:.1} ms; CPU µs: picker {:.0}; picker {:.0} MiB",
            of(|round| round.report.placed as f64 / round.report.seconds),
            of(|round| round.report.p50_ms),
            of(|round| round.report.p99_ms),
            of(|round| round.cpu * 1e6 / round.report.placed as f64),
            of(|round| round.mib),
        ))
    }

    async fn streams(&self) -> Result<(), BenchError> {
        let backends = [Backend::start().await?, Backend::start().await?];
        let picker = scene::picker(&self.hermes, &backends.each_ref().map(port)).await?;
        let streams = STREAMS.to_string();
        for pace in ["10", "100"] {
            let script = [
                "--streams",
                &streams,
                "--prompt-bytes",
                "800",
                "--tokens",
                "5000",
            ];
            let script = [&script[..], &["--pace", pace]].concat();
            let mut rounds = Vec::new();
            for _ in 0..self.plan.rounds {
                rounds.push(
                    self.gateway(&picker, &script, 2 * self.plan.seconds)
                        .await?,
                );
            }
            let of = |number: fn(&Asked) -> f64| median(rounds.iter().map(number));
            let micros = of(|round| round.cpu * 1e6 / round.report.tokens as f64);
            print(&format!(
                "2,500 streams, a token each {pace} ms: {:.0} tokens/s; picker {micros:.2} µs a token, {:.2} cores at 250,000/s; {:.0} MiB",
                of(|round| round.report.tokens as f64 / round.report.seconds),
                micros * TOKENS_PER_SECOND / 1e6,
                of(|round| round.mib),
            ))?;
        }
        Ok(())
    }

    /// Load through an Envoy, while it and the picker are watched.
    async fn watched(
        &self,
        picker: &Served,
        envoy: &Served,
        load: &[&str],
    ) -> Result<Watched, BenchError> {
        let before = [picker, envoy].map(|served| served.process.usage().cpu);
        let (report, mib) = with_peak(&picker.process, self.load(envoy, load)).await;
        let report = report?;
        let after = [picker, envoy].map(|served| served.process.usage().cpu);
        let micros = |at: usize| {
            let cpu = after[at].saturating_sub(before[at]);
            cpu.as_secs_f64() * 1e6 / report.requests.max(1) as f64
        };
        Ok(Watched {
            picker_us: micros(0),
            envoy_us: micros(1),
            picker_mib: mib,
            rps: report.rps,
            p50_ms: report.latency.p50_ms,
            p99_ms: report.latency.p99_ms,
            failed: (report.requests - report.ok) as f64,
        })
    }

    async fn load(&self, envoy: &Served, load: &[&str]) -> Result<Report, BenchError> {
        let seconds = self.plan.seconds.to_string();
        let args = ["load", "--json", "--timeout", "20", "--model", MODEL];
        let url = envoy.url();
        let rest = ["--target", &url, "--duration", &seconds];
        reported(&[&args[..], &rest[..], load].concat()).await
    }

    /// The script of a gateway, while the picker is watched.
    async fn gateway(
        &self,
        picker: &Served,
        script: &[&str],
        seconds: u64,
    ) -> Result<Asked, BenchError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, picker.port)).to_string();
        let seconds = seconds.to_string();
        let args = ["gateway", "--picker", &address, "--duration", &seconds];
        let args = [&args[..], script].concat();
        let before = picker.process.usage().cpu;
        let (report, mib) = with_peak(&picker.process, reported(&args)).await;
        let cpu = picker.process.usage().cpu.saturating_sub(before);
        Ok(Asked {
            report: report?,
            cpu: cpu.as_secs_f64(),
            mib,
        })
    }
}

/// One round through an Envoy. CPU is that of one request.
struct Watched {
    picker_us: f64,
    envoy_us: f64,
    picker_mib: f64,
    rps: f64,
    p50_ms: f64,
    p99_ms: f64,
    failed: f64,
}

/// One round of a gateway's script.
struct Asked {
    report: GatewayReport,
    /// Seconds, of the picker.
    cpu: f64,
    mib: f64,
}

/// The most memory of a process during some work, in MiB.
async fn with_peak<T>(process: &Tree, work: impl Future<Output = T>) -> (T, f64) {
    let mut peak = 0;
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return (done, peak as f64 / 1024.0),
            () = sleep(Duration::from_millis(200)) => {
                peak = peak.max(process.usage().resident_kib);
            }
        }
    }
}

/// Runs this binary in a role and reads its report.
async fn reported<R: serde::de::DeserializeOwned>(args: &[&str]) -> Result<R, BenchError> {
    say(&args.join(" "));
    let own = std::env::current_exe().map_err(failed("find this binary"))?;
    let child = Command::new("/bin/sh")
        .args(["-c", r#"ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#])
        .arg(own)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(Duration::from_secs(120), child)
        .await
        .map_err(|_| BenchError::NoReport("it did not end in time".to_owned()))?
        .map_err(failed("start the load process"))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|_| BenchError::NoReport(String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn port(backend: &Backend) -> u16 {
    let port = backend.authority().rsplit(':').next();
    port.and_then(|port| port.parse().ok()).unwrap_or(0)
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}

fn print(line: &str) -> Result<(), BenchError> {
    writeln!(io::stdout(), "{line}").map_err(failed("write a row"))
}
