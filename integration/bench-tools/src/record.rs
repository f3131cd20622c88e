//! `hermes record`: the requests of running proxies as a trace, for `hermes simulate`, `hermes
//! replay` and other tools.
//!
//! ```text
//!   proxy 1 ─/debug/records─▶ listener ─┐
//!   proxy 2 ─/debug/records─▶ listener ─┴─▶ lines (bounded) ─▶ output ─▶ a file, in order of arrival; or a pipe
//! ```
//!
//! A line holds sizes and hashes, never text: proxies send them to the caller and write nothing to
//! disk. A proxy whose listener is too slow drops lines and sends their number, which is counted
//! and reported.

mod listener;
mod output;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::Args;
use futures::future::try_join_all;
use hermes_control_plane::config::duration;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    listener::{Line, Listener},
    output::Output,
};
use crate::load::client::BadTarget;
use crate::load::until_interrupted;

/// Lines that wait to be written. When they are more, proxies wait, and then leave lines out.
const LINES: usize = 1_024;

/// Records the requests that proxies finish: one JSON object a line, in the Mooncake trace format.
#[derive(Clone, Debug, Args)]
pub struct RecordArgs {
    /// A proxy's admin port; give it once for each proxy, or several separated by commas
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8001"
    )]
    pub admin: Vec<String>,
    /// Stop after this time, such as 90s or 10m
    #[arg(long, value_name = "DURATION", value_parser = read_duration)]
    pub duration: Option<Duration>,
    /// Stop after this many requests
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pub limit: u64,
    /// Write to this file, sorted by arrival; else to standard output, as requests finish
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// What came of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Lines written.
    pub records: u64,
    /// Requests that proxies left out, because their lines were taken too slowly.
    pub lost: u64,
    /// Proxies that ended while they were listened to.
    pub gone: Vec<String>,
}

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The admin port is not one that can be asked.
    #[error(transparent)]
    Target(#[from] BadTarget),
    /// No connection, or no HTTP behind it.
    #[error("cannot listen to {admin} (--admin must be the admin port of a proxy): {source}")]
    Connect {
        /// As given.
        admin: String,
        /// What went wrong.
        source: io::Error,
    },
    /// An answer that is no recording.
    #[error("{admin} answers {status} (--admin must be the admin port of a proxy): {message}")]
    Refused {
        /// As given.
        admin: String,
        /// The HTTP status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// The file, or the pipe.
    #[error("cannot write the recording: {0}")]
    Write(#[from] io::Error),
}

/// A recording that has begun: what arrives from now on will be in it.
pub struct Recording<'a> {
    args: &'a RecordArgs,
    listeners: Vec<Listener>,
}

// === Recording ===

impl<'a> Recording<'a> {
    /// Begins to listen to every proxy.
    ///
    /// # Errors
    /// When one of them cannot be listened to.
    pub async fn begin(args: &'a RecordArgs) -> Result<Self, RecordError> {
        let listeners = try_join_all(args.admin.iter().map(|admin| Listener::open(admin))).await?;
        Ok(Self { args, listeners })
    }

    /// Records until a limit or Ctrl-C; `pipe` is written to when no file was named.
    ///
    /// # Errors
    /// When the recording cannot be written.
    pub async fn run(self, pipe: &mut dyn Write) -> Result<Recorded, RecordError> {
        let Self { args, listeners } = self;
        let mut output = match &args.output {
            Some(path) => Output::file(path)?,
            None => Output::Pipe(pipe),
        };
        let (found, lines) = mpsc::channel(LINES);
        let mut listening = JoinSet::new();
        for listener in listeners {
            listening.spawn(listener.run(found.clone()));
        }
        drop(found);
        let recorded =
            until_interrupted(async |stop| write(args, lines, &mut output, stop).await).await;
        // What was written is a trace, also where the rest could not be.
        output.finish()?;
        recorded
    }
}

async fn write(
    args: &RecordArgs,
    mut lines: mpsc::Receiver<Line>,
    output: &mut Output<'_>,
    stop: CancellationToken,
) -> Result<Recorded, RecordError> {
    let mut recorded = Recorded::default();
    let end = args
        .duration
        .and_then(|duration| Instant::now().checked_add(duration));
    while recorded.records < args.limit {
        let line = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = sleep_until(end.unwrap_or_else(Instant::now)), if end.is_some() => break,
            line = lines.recv() => line,
        };
        match line {
            Some(Line::Record { facts, text }) => {
                output.write(facts, &text)?;
                recorded.records += 1;
                if lines.is_empty() {
                    output.flush()?;
                }
            }
            Some(Line::Lost(lost)) => recorded.lost += lost,
            Some(Line::Gone(admin)) => recorded.gone.push(admin),
            None => break,
        }
    }
    Ok(recorded)
}

fn read_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| format!("`{text}` is not a duration such as 30s or 1m30s"))
}
