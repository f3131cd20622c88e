//! `hermes simulate`, as a command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::fleet_args::{FleetArgs, count};
use super::policies::{POLICIES, Policy};
use crate::chats::ChatArgs;
use crate::load::positive;
use crate::report::{ComparisonArgs, ObjectiveArgs};

/// Simulates a fleet on a trace, or on made-up chats, under several policies and compares them.
#[derive(Clone, Debug, Args)]
pub struct SimulateArgs {
    /// The trace, one JSON object a line: Mooncake's format, or access records of Hermes
    #[arg(required_unless_present = "rate", conflicts_with_all = ["rate", "users"])]
    pub trace: Option<PathBuf>,
    /// The policies to compare, separated by commas; all of them if not given
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = policy, long_help = policies())]
    pub policies: Vec<Policy>,
    /// Let requests arrive this many times as fast as in the trace
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = positive)]
    pub scale: f64,
    /// Let each request arrive later by up to this time at random, as where a trace's times are rounded
    #[arg(long, value_name = "TIME", value_parser = crate::report::time)]
    pub spread: Option<Duration>,
    /// Take only this many requests; of chats 3,000 if not given
    #[arg(long, value_name = "N", value_parser = count)]
    pub limit: Option<usize>,
    /// Take only requests for this model, if the trace names models
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// How many proxies, each with knowledge of its own unless the policy shares it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = count)]
    pub proxies: usize,
    /// Decides everything that is left to chance
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub seed: u64,
    /// Instead of a trace, chats of this many requests a second
    #[arg(long, value_name = "PER_SECOND", value_parser = positive, help_heading = "Chats")]
    pub rate: Option<f64>,
    /// Tokens of each answer in chats
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = count, help_heading = "Chats")]
    pub tokens: usize,
    /// The chats
    #[command(flatten)]
    pub chats: ChatArgs,
    /// The servers
    #[command(flatten)]
    pub fleet: FleetArgs,
    /// Try every split of the servers into prefill and decode servers, besides all of them aggregated
    #[arg(long, help_heading = "Servers", conflicts_with = "prefill")]
    pub splits: bool,
    /// What counts as good
    #[command(flatten)]
    pub objectives: ObjectiveArgs,
    /// For each policy, search for the highest load at which this part of the requests is good; 0.95
    /// if none is given
    #[arg(long, value_name = "SHARE", num_args = 0..=1, require_equals = true,
        default_missing_value = "0.95", value_parser = share, help_heading = "Objectives")]
    pub goodput: Option<f64>,
    /// Where the result goes
    #[command(flatten, next_help_heading = "Output")]
    pub output: ComparisonArgs,
}

fn policies() -> String {
    let mut help =
        "The policies to compare, separated by commas; all of them if not given:".to_owned();
    for Policy { name, about, .. } in POLICIES {
        help.push_str(&format!("\n  {name:<16}{about}"));
    }
    help
}

fn policy(name: &str) -> Result<Policy, String> {
    let names = || {
        POLICIES
            .iter()
            .map(|policy| policy.name)
            .collect::<Vec<_>>()
            .join(", ")
    };
    Policy::named(name).ok_or_else(|| format!("expected one of {}", names()))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok();
    let share = share.filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "expected a part of all requests, such as 0.95".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        simulate: SimulateArgs,
    }

    fn parse(line: &str) -> Result<SimulateArgs, String> {
        let line = ["simulate", "trace.jsonl"]
            .into_iter()
            .chain(line.split_whitespace());
        Command::try_parse_from(line)
            .map(|command| command.simulate)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn policies_are_named_and_a_wrong_name_lists_the_right_ones() {
        let names = |args: SimulateArgs| {
            args.policies
                .iter()
                .map(|policy| policy.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names(parse("--policies llm-d,omniscient").unwrap()),
            ["llm-d", "omniscient"]
        );
        assert!(
            parse("--policies best")
                .unwrap_err()
                .contains("expected one of round-robin, ")
        );
    }

    #[test]
    fn traffic_is_a_trace_or_chats_at_a_rate() {
        let parse = |line: &str| Command::try_parse_from(line.split_whitespace()).is_ok();
        assert!(parse("simulate trace.jsonl"));
        assert!(parse("simulate --rate 5 --users 48 --rounds 10"));
        for wrong in [
            "simulate",
            "simulate --users 48",
            "simulate trace.jsonl --rate 5",
            "simulate trace.jsonl --users 48",
            "simulate --rate 5 --users 0",
            "simulate --rate 5 --singles 1",
        ] {
            assert!(!parse(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_search_for_goodput_has_a_share_after_an_equals_sign() {
        let goodput = |line| parse(line).map(|args| args.goodput);
        assert_eq!(goodput(""), Ok(None));
        assert_eq!(goodput("--goodput --scale 2"), Ok(Some(0.95)));
        assert_eq!(goodput("--goodput=0.8"), Ok(Some(0.8)));
    }

    #[test]
    fn splits_are_those_of_all_servers() {
        assert!(parse("--splits --servers 4").is_ok_and(|args| args.splits));
        assert!(parse("--splits --prefill 2 --decode 2").is_err());
    }

    #[test]
    fn numbers_that_describe_nothing_are_refused() {
        for wrong in [
            "--servers 0",
            "--scale 0",
            "--proxies 0",
            "--limit 0",
            "--prefill-rate -1",
            "--blocks x",
            "--goodput=0",
            "--goodput=95",
            "--ttft 2",
            "--transfer-rate 0",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
