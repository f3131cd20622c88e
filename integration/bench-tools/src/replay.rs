//! `hermes replay`: sends the requests of a recorded trace over HTTP, to a server that runs
//! already, or, in [`live`], to a fleet that is started here once for each policy.

pub mod live;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use self::live::LiveReplayArgs;
use crate::load::Report;
use crate::load::arrivals;
use crate::load::client::{Call, Client, Limits, Target};
use crate::load::run::{Bounds, Run};
use crate::load::trace::{Trace, TraceError};
use crate::load::workload::Shape;
use crate::load::{LoadError, until_enough};

/// Replays a trace of requests against an OpenAI-compatible server and reports what a client sees.
///
/// The trace is in the Mooncake format: one JSON object a line with `timestamp` (ms),
/// `input_length`, `output_length` and `hash_ids`. Prompts are made so that equal hash ids give
/// equal text, so prefix caches hit as they did in production.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// The trace, one JSON object a line
    pub trace: PathBuf,
    /// Where requests go: `http://HOST[:PORT][/PREFIX]`
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub target: String,
    /// Replay this many times as fast as the trace was recorded
    #[arg(long, alias = "speed", value_name = "N", default_value_t = 1.0, value_parser = crate::load::positive)]
    pub scale: f64,
    /// Divide the lengths of prompts and answers by this
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub shrink: u16,
    /// Stop after this many requests
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Start no requests after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub duration: u64,
    /// The `model` field of each request
    #[arg(long, value_name = "NAME", default_value = "sim")]
    pub model: String,
    /// Most requests in flight; a request beyond that waits, and its wait counts as latency
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub concurrency: usize,
    /// Seconds one request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// Ask for answers as long as the trace's (`ignore_eos`; for vLLM and SGLang)
    #[arg(long)]
    pub ignore_eos: bool,
    /// Report as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Everything on this machine
    #[command(flatten)]
    pub live: LiveReplayArgs,
}

/// Replays the trace; ends early, with the report so far, on Ctrl-C. After SIGTERM no more requests
/// are started, and those in flight are waited for.
///
/// # Errors
/// A target that cannot be sent to, or a trace that cannot be read: the first record is read before
/// anything is sent, and a bad line later ends the run.
pub async fn replay(args: ReplayArgs) -> Result<Report, LoadError> {
    let client = Client::new(
        Target::parse(&args.target)?,
        Limits::answer_within(Duration::from_secs(args.timeout)),
    );
    let limit = args.limit.unwrap_or(u64::MAX);
    let bounds = Bounds {
        count: limit,
        duration: Duration::from_secs(args.duration),
        concurrency: args.concurrency,
    };
    let mut calls = Calls::open(&args)?;
    let total = args.limit;
    let run = async |stop, enough| {
        Run::new(client, bounds, stop)
            .until(enough)
            .with_progress(total)
            .open(&mut calls)
            .await
    };
    let report = until_enough(run).await;
    match calls.failed {
        Some(error) => Err(error.into()),
        None => Ok(report),
    }
}

/// The calls of a trace, each made when it is due.
struct Calls<I: Iterator> {
    records: std::iter::Peekable<I>,
    shape: Shape,
    scale: f64,
    shrink: usize,
    origin: u64,
    failed: Option<TraceError>,
}

impl Calls<Trace<std::io::BufReader<std::fs::File>>> {
    /// A trace cut from a longer one does not start at zero: its first record is taken as the
    /// beginning.
    fn open(args: &ReplayArgs) -> Result<Self, LoadError> {
        let mut records = Trace::open(&args.trace)?.peekable();
        let origin = match records.next_if(Result::is_err) {
            Some(Err(error)) => return Err(error.into()),
            _ => records
                .peek()
                .and_then(|record| record.as_ref().ok())
                .map_or(0, |record| record.timestamp),
        };
        let shape = Shape {
            model: args.model.clone(),
            stream: true,
            ignore_eos: args.ignore_eos,
        };
        Ok(Self {
            records,
            shape,
            scale: args.scale,
            shrink: usize::from(args.shrink),
            origin,
            failed: None,
        })
    }
}

impl<I: Iterator<Item = Result<crate::load::trace::Record, TraceError>>> Iterator for Calls<I> {
    type Item = (Duration, Call);

    fn next(&mut self) -> Option<Self::Item> {
        match self.records.next()? {
            Ok(record) => {
                let since = record.timestamp.saturating_sub(self.origin);
                Some((
                    arrivals::scaled(since, self.scale),
                    self.shape.traced(&record, self.shrink),
                ))
            }
            Err(error) => {
                self.failed = Some(error);
                None
            }
        }
    }
}
