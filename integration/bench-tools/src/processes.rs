//! The processes of this machine, by proc(5): the parent of each, and its CPU time.

use std::{collections::BTreeMap, fs, time::Duration};

/// All processes at one moment; empty on systems without `/proc`.
#[derive(Debug)]
pub struct ProcessTable(BTreeMap<u32, Process>);

/// One line of it.
#[derive(Debug)]
struct Process {
    parent: u32,
    /// Of its own, and of children that have ended and were waited for.
    cpu: Duration,
}

impl ProcessTable {
    /// The table now.
    #[must_use]
    pub fn read() -> Self {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let process = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, Process::parse(&stat)?))
        };
        Self(pids.filter_map(process).collect())
    }

    /// `root` and all below it, the root first; none if there is no such process.
    #[must_use]
    pub fn tree(&self, root: u32) -> Vec<u32> {
        let Self(processes) = self;
        let is_there = processes.contains_key(&root);
        let mut found: Vec<u32> = is_there.then_some(root).into_iter().collect();
        let mut next = 0;
        while let Some(&parent) = found.get(next) {
            let children = processes.iter();
            let children = children.filter(|(_, process)| process.parent == parent);
            found.extend(children.map(|(&pid, _)| pid));
            next += 1;
        }
        found
    }

    /// User and system time that `root` and all below it have used; `None` if there is no such
    /// process.
    #[must_use]
    pub fn cpu(&self, root: u32) -> Option<Duration> {
        let tree = self.tree(root);
        (!tree.is_empty()).then(|| tree.iter().map(|pid| self.0[pid].cpu).sum())
    }
}

/// Linux counts in hundredths of a second toward programs (`USER_HZ`) on all common architectures.
const MILLIS_PER_TICK: u64 = 10;

impl Process {
    /// Reads `stat`. The second field is a name in parentheses, which may hold anything, so
    /// counting starts after the last parenthesis: state, parent, …, and 12 fields on utime, stime,
    /// cutime and cstime.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let ticks = fields.get(11..15)?.iter();
        let ticks = ticks.map(|field| field.parse::<u64>());
        let ticks: u64 = ticks.sum::<Result<_, _>>().ok()?;
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            cpu: Duration::from_millis(ticks * MILLIS_PER_TICK),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let line = "7 (a) b (c)) S 3 7 7 0 -1 4194560 100 0 0 0 20 5 2 1 20 0 1 0 100 1 1";
        let process = Process::parse(line).unwrap();
        let cpu = Duration::from_millis(280);
        assert_eq!((process.parent, process.cpu), (3, cpu));
        assert!(Process::parse("7 (a) S").is_none());
    }

    #[test]
    fn a_process_counts_with_its_children_and_theirs() {
        let entry = |pid, parent, ticks| {
            let cpu = Duration::from_millis(ticks * MILLIS_PER_TICK);
            (pid, Process { parent, cpu })
        };
        let table = ProcessTable(BTreeMap::from([
            entry(1, 0, 1_000),
            entry(5, 1, 100),
            entry(6, 5, 20),
            entry(7, 6, 3),
        ]));
        assert_eq!(table.cpu(5), Some(Duration::from_millis(1_230)));
        assert_eq!(table.tree(5), [5, 6, 7]);
        assert_eq!(table.cpu(9), None);
    }
}
