//! One measurement: a kind of request, a number of connections, a proxy.

use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use hermes_bench::load::Report;
use tokio::process::Command;
use tokio::time::timeout;

use crate::contender::Contender;
use crate::{BenchError, backend::MODEL, failed};

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of which each number is the median.
    pub rounds: usize,
    /// Time of load for one number. CPU time comes in hundredths of a second, so a second resolves
    /// 1 %.
    pub measurement: Duration,
    /// Time of load before anything is measured.
    pub warm_up: Duration,
}

impl Plan {
    /// Numbers to publish.
    pub const FULL: Self = Self {
        rounds: 3,
        measurement: Duration::from_secs(3),
        warm_up: Duration::from_millis(500),
    };
    /// Numbers to look at.
    pub const QUICK: Self = Self {
        rounds: 1,
        measurement: Duration::from_secs(1),
        warm_up: Duration::from_millis(200),
    };
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    kind: Kind,
    connections: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Small,
    Stream,
    Long,
}

/// What one measurement gave.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Sample {
    /// CPU time of the proxy's processes per request, in microseconds.
    pub cpu_us: f64,
    /// Requests a second.
    pub rps: f64,
    /// Median latency in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the latency in milliseconds.
    pub p99_ms: f64,
    /// Requests that did not end well.
    pub failed: u64,
}

impl Cell {
    const SMALL_8: Self = Self {
        kind: Kind::Small,
        connections: 8,
    };
    const STREAM_8: Self = Self {
        kind: Kind::Stream,
        connections: 8,
    };
    const LONG_200: Self = Self {
        kind: Kind::Long,
        connections: 200,
    };

    /// What is sent before anything is measured: memory that a proxy takes once for large bodies is
    /// not the cost of one.
    pub const WARM_UP: [Self; 3] = [Self::SMALL_8, Self::STREAM_8, Self::LONG_200];

    /// All rows.
    pub const ALL: [Self; 7] = [
        Self {
            kind: Kind::Small,
            connections: 1,
        },
        Self::SMALL_8,
        Self {
            kind: Kind::Small,
            connections: 64,
        },
        Self {
            kind: Kind::Stream,
            connections: 1,
        },
        Self::STREAM_8,
        Self {
            kind: Kind::Stream,
            connections: 64,
        },
        Self::LONG_200,
    ];

    /// Runs the load for `time` and reads what the contender's processes have used for it.
    pub async fn measure(
        self,
        contender: &Contender,
        time: Duration,
    ) -> Result<Sample, BenchError> {
        let before = contender.usage();
        let report = self.load(&contender.url, time).await?;
        let cpu = contender.usage().cpu.saturating_sub(before.cpu);
        Ok(Sample {
            cpu_us: cpu.as_secs_f64() * 1e6 / report.requests.max(1) as f64,
            rps: report.rps,
            p50_ms: report.latency.p50_ms,
            p99_ms: report.latency.p99_ms,
            failed: report.requests - report.ok,
        })
    }

    async fn load(self, url: &str, time: Duration) -> Result<Report, BenchError> {
        let workload = match self.kind {
            Kind::Small => "chat",
            Kind::Stream => "stream",
            Kind::Long => "long",
        };
        let own = std::env::current_exe().map_err(failed("find this binary"))?;
        let child = Command::new(own)
            .args([
                "load",
                "--json",
                "--timeout",
                "20",
                "--target",
                url,
                "--workload",
                workload,
                "--model",
                MODEL,
            ])
            .args(["--connections", &self.connections.to_string()])
            .args(["--duration", &time.as_secs_f64().to_string()])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(time + Duration::from_secs(30), child)
            .await
            .map_err(|_| BenchError::NoReport("it did not end in time".to_owned()))?
            .map_err(failed("start the load process"))?;
        serde_json::from_slice(&output.stdout)
            .map_err(|_| BenchError::NoReport(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Small => "small",
            Kind::Stream => "SSE of 50",
            Kind::Long => "220 KB prompt",
        };
        write!(out, "{kind} × {}", self.connections)
    }
}

impl Sample {
    /// The median of each number by itself.
    pub fn median(samples: &[Self]) -> Self {
        let of = |number: fn(&Self) -> f64| {
            let mut numbers: Vec<f64> = samples.iter().map(number).collect();
            numbers.sort_by(f64::total_cmp);
            numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
        };
        Self {
            cpu_us: of(|sample| sample.cpu_us),
            rps: of(|sample| sample.rps),
            p50_ms: of(|sample| sample.p50_ms),
            p99_ms: of(|sample| sample.p99_ms),
            failed: samples.iter().map(|sample| sample.failed).sum(),
        }
    }
}
