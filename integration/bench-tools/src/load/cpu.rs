//! CPU time of processes, by proc(5): what a router costs while it is under load.
//!
//! A process counts with its children and theirs, those that have ended and were waited for
//! included.

use std::collections::BTreeMap;
use std::fs;

/// The processes to be measured, and what they had used at the start.
#[derive(Debug)]
pub(super) struct CpuMeter {
    before: BTreeMap<u32, f64>,
}

/// There is no process of this id.
#[derive(Debug, thiserror::Error)]
#[error("no process has the id {0}, or its CPU time cannot be read")]
pub struct NoSuchProcess(u32);

impl CpuMeter {
    /// Begins to measure.
    ///
    /// # Errors
    /// A process that is not there.
    pub(super) fn start(pids: &[u32]) -> Result<Self, NoSuchProcess> {
        let table = processes();
        let used = |&pid| {
            let seconds = used(&table, pid).ok_or(NoSuchProcess(pid))?;
            Ok((pid, seconds))
        };
        let before = pids.iter().map(used).collect::<Result<_, _>>()?;
        Ok(Self { before })
    }

    /// Seconds that each has used since the start; without those that have ended.
    pub(super) fn read(&self) -> BTreeMap<u32, f64> {
        if self.before.is_empty() {
            return BTreeMap::new();
        }
        let table = processes();
        let since = |(&pid, before): (&u32, &f64)| Some((pid, used(&table, pid)? - before));
        self.before.iter().filter_map(since).collect()
    }
}

/// One line of the process table.
struct Process {
    parent: u32,
    ticks: u64,
}

fn processes() -> BTreeMap<u32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let process = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, Process::parse(&stat)?))
    };
    pids.filter_map(process).collect()
}

impl Process {
    /// Reads `stat`. The second field is a name in parentheses, which may hold anything, so
    /// counting starts after the last parenthesis: state, parent, …, and 12 fields on utime, stime,
    /// cutime and cstime.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let ticks = fields.get(11..15)?.iter();
        let ticks = ticks.map(|field| field.parse::<u64>());
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            ticks: ticks.sum::<Result<_, _>>().ok()?,
        })
    }
}

/// Linux counts in hundredths of a second toward programs (`USER_HZ`) on all common architectures.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds that `root` and all below it have used.
fn used(table: &BTreeMap<u32, Process>, root: u32) -> Option<f64> {
    let mut ticks = table.get(&root)?.ticks;
    let mut found = vec![root];
    while let Some(parent) = found.pop() {
        for (&pid, process) in table {
            if process.parent == parent && pid != root {
                ticks += process.ticks;
                found.push(pid);
            }
        }
    }
    Some(ticks as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let line = "7 (a) b (c)) S 3 7 7 0 -1 4194560 100 0 0 0 20 5 2 1 20 0 1 0 100 1 1";
        let process = Process::parse(line).unwrap();
        assert_eq!((process.parent, process.ticks), (3, 28));
        assert!(Process::parse("7 (a) S").is_none());
    }

    #[test]
    fn a_process_counts_with_its_children_and_theirs() {
        let entry = |pid, parent, ticks| (pid, Process { parent, ticks });
        let table = BTreeMap::from([
            entry(1, 0, 1_000),
            entry(5, 1, 100),
            entry(6, 5, 20),
            entry(7, 6, 3),
        ]);
        assert_eq!(used(&table, 5), Some(1.23));
        assert_eq!(used(&table, 9), None);
    }

    #[test]
    fn this_process_uses_cpu_time_and_one_that_is_not_there_is_named() {
        let meter = CpuMeter::start(&[std::process::id()]).unwrap();
        assert_eq!(meter.read().len(), 1);
        let error = CpuMeter::start(&[u32::MAX]).unwrap_err().to_string();
        assert!(error.contains("4294967295"), "{error}");
    }
}
