//! Reads what a conductor answers. Its relatives differ in what is around the rows, and in what a
//! row's numbers mean:
//!
//! ```text
//!   {"instances": {"i": {"longest_matched":64, "gpu":32, "cpu":48, "disk":64, "dp":{"0":32}, "rank_matches":{…}}}}
//!       boundaries: gpu <= cpu <= disk = longest_matched              (C++, Dynamo)
//!   {"TENANT": {"i": {"longest_matched":256, "GPU":128, "CPU":256, "DISK":0, "DP":{"0":128}}}}
//!   {"data": {"i": {"matched_tokens":100, "L1":{"dp0":10,"dp1":20}, "L2":60, "L3":10}}}
//!       counts of each tier for itself                                (Go, and the first draft)
//! ```
//!
//! Counts of tiers say how much of the prompt each holds, not where. What is certain of them
//! becomes boundaries: the accelerator's count begins the prompt, the longest match is its end, and
//! without anything on disk all of that is in memory; with something there, the larger of the other
//! two counts is.
//!
//! Numbers that cannot be true (more tokens than the prompt has, boundaries out of order, ranks
//! that contradict their sum) make their row unknown, and the whole answer invalid if more than one
//! row in eight has them: its other counts are no more reliable then. One instance that reports
//! nonsense must not hide what hundreds of others hold.

use hermes_core::query::{CacheHit, CacheSource, CachedTokens};

use super::{Conductor, Lookup, LookupOutcome, PromptBlocks, plain::AnswerValue};
use crate::cache_sources::kv_manager::names::InstanceNames;

const LONGEST: [&str; 2] = ["longest_matched", "matched_tokens"];
const GPU: [&str; 4] = ["gpu", "GPU", "L1", "G1"];
const CPU: [&str; 4] = ["cpu", "CPU", "L2", "G2"];
const DISK: [&str; 4] = ["disk", "DISK", "L3", "G3"];

/// What the numbers of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowMeaning {
    /// How far into the prompt each tier reaches, faster ones included.
    Boundaries,
    /// How much each tier holds.
    Counts,
}

/// Rows by the names of their instances, and what their numbers are.
type ConductorRows<'a> = (&'a [(String, AnswerValue)], RowMeaning);

/// Rows with plausible numbers that an answer must have for each one without.
const PLAUSIBLE_ROWS: usize = 7;

/// A number cannot be true.
struct Implausible;

/// Reads `answer` to `lookup`, whose `blocks` were asked about.
///
/// # Errors
/// [`LookupOutcome::Garbage`] when it has no rows in a known place, [`LookupOutcome::Implausible`]
/// when too many rows have numbers that cannot be true, [`LookupOutcome::Unknown`] when it has rows
/// and none is about a candidate.
pub(super) fn hits(
    conductor: &Conductor,
    answer: &[u8],
    lookup: &Lookup,
    blocks: PromptBlocks<'_>,
) -> Result<Vec<CacheHit>, LookupOutcome> {
    let answer: AnswerValue = conductor.encoding.read(answer)?;
    let Some((rows, meaning)) = rows(&answer, &conductor.tenant)? else {
        return Ok(Vec::new());
    };
    let names = InstanceNames::of(&lookup.candidates).with(&conductor.instances);
    let (mut hits, mut known, mut implausible) = (Vec::new(), false, 0);
    for (instance, row) in rows {
        let Ok(cached) = cached(row, meaning, blocks.ids.len() as u32) else {
            implausible += 1;
            continue;
        };
        let Some(position) = names.find(instance) else {
            continue;
        };
        known = true;
        if cached.disk > 0 {
            hits.push(CacheHit {
                endpoint: lookup.candidates[position].endpoint,
                cached,
                source: CacheSource::KvManager,
                at_least: false,
            });
        }
    }
    if implausible * (PLAUSIBLE_ROWS + 1) > rows.len() {
        return Err(LookupOutcome::Implausible);
    }
    if implausible > 0 {
        tracing::debug!(implausible, "rows of a conductor have impossible numbers");
    }
    if known || rows.is_empty() {
        Ok(hits)
    } else {
        Err(LookupOutcome::Unknown)
    }
}

/// The rows and what they mean; none when no instance holds a block.
fn rows<'a>(
    answer: &'a AnswerValue,
    tenant: &str,
) -> Result<Option<ConductorRows<'a>>, LookupOutcome> {
    let all = answer.fields().ok_or(LookupOutcome::Garbage)?;
    let places = [
        ("instances", RowMeaning::Boundaries),
        (tenant, RowMeaning::Counts),
        ("data", RowMeaning::Counts),
    ];
    let found = places
        .iter()
        .find_map(|(place, meaning)| Some((answer.get(&[place])?.fields()?, *meaning)));
    match found {
        Some(found) => Ok(Some(found)),
        None if all.is_empty() => Ok(None),
        None => Err(LookupOutcome::Garbage),
    }
}

fn cached(row: &AnswerValue, meaning: RowMeaning, asked: u32) -> Result<CachedTokens, Implausible> {
    let longest = tokens(row, &LONGEST)?;
    let (gpu, cpu, disk) = (tokens(row, &GPU)?, tokens(row, &CPU)?, tokens(row, &DISK)?);
    let cached = match meaning {
        RowMeaning::Boundaries => {
            check_ranks(row)?;
            let gpu = gpu.unwrap_or(0);
            let host = cpu.unwrap_or(gpu);
            let disk = disk.or(longest).unwrap_or(host);
            if gpu > host || host > disk || longest.is_some_and(|longest| longest != disk) {
                return Err(Implausible);
            }
            CachedTokens { gpu, host, disk }
        }
        RowMeaning::Counts => {
            let (gpu, cpu, disk) = (gpu.unwrap_or(0), cpu.unwrap_or(0), disk.unwrap_or(0));
            let longest = longest.unwrap_or(gpu.max(cpu).max(disk));
            let host = if disk == 0 { longest } else { gpu.max(cpu) };
            CachedTokens {
                gpu: gpu.min(longest),
                host: host.min(longest),
                disk: longest,
            }
        }
    };
    if cached.disk > asked {
        Err(Implausible)
    } else {
        Ok(cached)
    }
}

/// A count, or the most of several ranks; none when it is not there.
fn tokens(row: &AnswerValue, names: &[&str]) -> Result<Option<u32>, Implausible> {
    match row.get(names) {
        None | Some(AnswerValue::Other) => Ok(None),
        Some(AnswerValue::Odd) => Err(Implausible),
        Some(AnswerValue::Count(count)) => Ok(Some(*count)),
        Some(AnswerValue::Map(ranks)) => {
            ranks.iter().try_fold(None, |most, (_, rank)| match rank {
                AnswerValue::Count(count) => Ok(most.max(Some(*count))),
                AnswerValue::Odd | AnswerValue::Map(_) | AnswerValue::Other => Err(Implausible),
            })
        }
    }
}

/// Ranks that are listed twice must have equal counts.
fn check_ranks(row: &AnswerValue) -> Result<(), Implausible> {
    let (Some(dp), Some(matches)) = (row.get(&["dp", "DP"]), row.get(&["rank_matches"])) else {
        return Ok(());
    };
    for (rank, count) in dp.fields().unwrap_or_default() {
        let listed = matches.get(&[rank]).and_then(|rank| rank.get(&GPU));
        if listed.is_some_and(|listed| listed != count) {
            return Err(Implausible);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
