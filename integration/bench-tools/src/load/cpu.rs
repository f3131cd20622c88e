//! CPU time of processes: what a router costs while it is under load.
//!
//! A process counts with its children and theirs, those that have ended and were waited for
//! included.

use std::{collections::BTreeMap, time::Duration};

use crate::processes::ProcessTable;

/// The processes to be measured, and what they had used at the start.
#[derive(Debug)]
pub(super) struct CpuMeter {
    before: BTreeMap<u32, Duration>,
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
        let table = ProcessTable::read();
        let used = |&pid| {
            let cpu = table.cpu(pid).ok_or(NoSuchProcess(pid))?;
            Ok((pid, cpu))
        };
        let before = pids.iter().map(used).collect::<Result<_, _>>()?;
        Ok(Self { before })
    }

    /// Seconds that each has used since the start; without those that have ended.
    pub(super) fn read(&self) -> BTreeMap<u32, f64> {
        if self.before.is_empty() {
            return BTreeMap::new();
        }
        let table = ProcessTable::read();
        let since = |(&pid, before): (&u32, &Duration)| {
            let now = table.cpu(pid)?.as_secs_f64();
            Some((pid, now - before.as_secs_f64()))
        };
        self.before.iter().filter_map(since).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_cpu_time_and_one_that_is_not_there_is_named() {
        let meter = CpuMeter::start(&[std::process::id()]).unwrap();
        assert_eq!(meter.read().len(), 1);
        let error = CpuMeter::start(&[u32::MAX]).unwrap_err().to_string();
        assert!(error.contains("4294967295"), "{error}");
    }
}
