//! A load described on a command line, for benches and trials.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::arrivals::Arrivals;
use super::client::{Client, Limits, Target};
use super::conversation;
use super::cpu::CpuMeter;
use super::report::Report;
use super::run::{Bounds, Run};
use super::workload::Shape;
use super::{LoadError, until_enough};
use crate::chats::ChatArgs;
use crate::chats::Chats;

/// Sends made-up chat requests to an OpenAI-compatible server and reports what a client sees.
///
/// Without `--rate` it keeps `--connections` requests in flight; with it, requests start at their
/// times whatever the server does, and latency counts from those times. Users who chat
/// (`--workload conversation`) never have two requests in flight; `--rate` is that of all of them.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Where requests go: `http://HOST[:PORT][/PREFIX]`
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    pub target: String,
    /// What to send
    #[arg(long, value_enum, default_value_t = Workload::Chat)]
    pub workload: Workload,
    /// The `model` field of each request; default the first that the target lists, else `sim`
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Bytes of each prompt; default 800, and 220,000 for `long`
    #[arg(long, value_name = "N")]
    pub prompt_bytes: Option<usize>,
    /// Tokens of each answer
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub tokens: usize,
    /// Requests in flight, at most; of a closed loop, always
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub connections: usize,
    /// Requests to start each second (open loop)
    #[arg(long, value_name = "PER_SECOND", value_parser = positive)]
    pub rate: Option<f64>,
    /// Draw the times between requests from an exponential distribution
    #[arg(long, requires = "rate")]
    pub poisson: bool,
    /// Stop after this many requests
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    pub count: u64,
    /// Start no requests after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive)]
    pub duration: f64,
    /// Seconds one request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
    /// Ask for answers of the full length (`ignore_eos`; for vLLM and SGLang)
    #[arg(long)]
    pub ignore_eos: bool,
    /// Decides every text and every gap
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Of `conversation` without --rate: seconds between an answer and the next question
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = not_negative)]
    pub think: f64,
    /// Of `conversation` without --rate: seconds between the first questions of two users
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = not_negative)]
    pub stagger: f64,
    /// Report the CPU time that these processes and their children use meanwhile
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,
    /// Of `conversation`
    #[command(flatten)]
    pub chats: ChatArgs,
    /// Report as one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// The kinds of made-up load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Small prompts, answered whole
    Chat,
    /// Small prompts, answered as a stream
    Stream,
    /// Long prompts, answered whole
    Long,
    /// Users who each go on talking, with a growing history
    Conversation,
}

impl LoadArgs {
    async fn shape(&self, client: &Client) -> Shape {
        let stream = matches!(self.workload, Workload::Stream | Workload::Conversation);
        let model = match &self.model {
            Some(model) => model.clone(),
            None => first_model(client)
                .await
                .unwrap_or_else(|| "sim".to_owned()),
        };
        Shape {
            model,
            stream,
            ignore_eos: self.ignore_eos,
        }
    }

    fn prompt_bytes(&self) -> usize {
        let default = if self.workload == Workload::Long {
            220_000
        } else {
            800
        };
        self.prompt_bytes.unwrap_or(default)
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            count: self.count,
            duration: Duration::from_secs_f64(self.duration),
            concurrency: self.connections,
        }
    }

    fn chats(&self) -> Chats {
        let Self {
            chats,
            think,
            stagger,
            tokens,
            seed,
            ..
        } = self;
        let seconds = |seconds: &f64| Duration::from_secs_f64(*seconds);
        match self.rate {
            Some(rate) => chats.timed(rate, *tokens, *seed),
            None => chats.as_answered(seconds(think), seconds(stagger), *tokens, *seed),
        }
    }

    async fn drive(&self, shape: Shape, run: Run) -> Report {
        if self.workload == Workload::Conversation {
            return conversation::drive(self.chats(), run, shape).await;
        }
        let calls = shape.fixed(self.prompt_bytes(), self.tokens, self.seed);
        match self.arrivals() {
            None => run.closed(Arc::from(calls)).await,
            Some(arrivals) => {
                run.open(arrivals.offsets().zip(calls.iter().cycle().cloned()))
                    .await
            }
        }
    }

    fn arrivals(&self) -> Option<Arrivals> {
        let per_second = self.rate?;
        let seed = self.seed;
        Some(if self.poisson {
            Arrivals::Poisson { per_second, seed }
        } else {
            Arrivals::Fixed { per_second }
        })
    }
}

/// Runs the load that `args` describe; ends early, with the report so far, on Ctrl-C. SIGTERM ends
/// it gently: no more requests are started, and those in flight are waited for.
///
/// # Errors
/// A target that cannot be sent to, or a process that is to be measured and is not there.
pub async fn load(args: &LoadArgs) -> Result<Report, LoadError> {
    let client = Client::new(
        Target::parse(&args.target)?,
        Limits::answer_within(Duration::from_secs(args.timeout)),
    );
    let shape = args.shape(&client).await;
    let meter = CpuMeter::start(&args.pid)?;
    let run = async |stop, enough| {
        args.drive(shape, Run::new(client, args.bounds(), stop).until(enough))
            .await
    };
    let mut report = until_enough(run).await;
    report.cpu_s = meter.read();
    Ok(report)
}

/// The first of `GET /v1/models`. Not to be had is no error: the load itself will show what is
/// wrong.
async fn first_model(client: &Client) -> Option<String> {
    let page: Value = serde_json::from_slice(&client.get("/v1/models").await?).ok()?;
    page.pointer("/data/0/id")?.as_str().map(str::to_owned)
}

/// Most that a rate, a factor or a number of seconds may be: a day of microseconds keeps durations
/// representable.
const MAX_NUMBER: f64 = 86_400e6;

pub(crate) fn positive(given: &str) -> Result<f64, String> {
    let number = not_negative(given)?;
    (number >= 1e-6)
        .then_some(number)
        .ok_or_else(|| "expected a number above zero".to_owned())
}

fn not_negative(given: &str) -> Result<f64, String> {
    let number = given.parse::<f64>().map_err(|error| error.to_string())?;
    (0.0..=MAX_NUMBER)
        .contains(&number)
        .then_some(number)
        .ok_or_else(|| "expected a number from zero up".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        load: LoadArgs,
    }

    fn parse(line: &str) -> Result<LoadArgs, clap::Error> {
        Line::try_parse_from(line.split_whitespace()).map(|line| line.load)
    }

    #[test]
    fn a_rate_makes_an_open_loop() {
        assert_eq!(parse("load").unwrap().arrivals(), None);
        assert_eq!(
            parse("load --rate 5").unwrap().arrivals(),
            Some(Arrivals::Fixed { per_second: 5.0 })
        );
        let poisson = parse("load --rate 5 --poisson --seed 9")
            .unwrap()
            .arrivals();
        assert_eq!(
            poisson,
            Some(Arrivals::Poisson {
                per_second: 5.0,
                seed: 9
            })
        );
    }

    #[test]
    fn numbers_that_no_clock_can_hold_are_refused() {
        for line in [
            "load --rate 0",
            "load --rate -1",
            "load --rate nan",
            "load --duration 1e300",
            "load --poisson",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
