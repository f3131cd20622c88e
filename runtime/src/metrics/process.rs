//! CPU, memory and file descriptors of this process, read from `/proc/self` at each scrape, and its
//! panics.
//!
//! The names are those that every Prometheus client library uses for them. Where `/proc` is absent,
//! so are the metrics. Formats: proc(5).

use crate::panics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::fs;

/// Clock ticks per second in `/proc/self/stat`. Linux fixes it at 100 for user space on every
/// platform that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Encodes the `process_*` metrics and `hermes_panics_total`.
#[derive(Clone, Copy, Debug)]
pub struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        put(
            &mut encoder,
            "hermes_panics",
            "Panics of this process; the log has the place of each",
            &ConstCounter::new(panics::count()),
        )?;
        if let Some(seconds) = read("stat").as_deref().and_then(cpu_seconds) {
            let counter = ConstCounter::new(seconds);
            let help = "User and system CPU time spent, in seconds";
            put(&mut encoder, "process_cpu_seconds", help, &counter)?;
        }
        if let Some(bytes) = read("status").as_deref().and_then(resident_bytes) {
            put(
                &mut encoder,
                "process_resident_memory_bytes",
                "Resident memory, in bytes",
                &ConstGauge::new(bytes),
            )?;
        }
        if let Some(count) = open_descriptors() {
            put(
                &mut encoder,
                "process_open_fds",
                "Open file descriptors",
                &ConstGauge::new(count),
            )?;
        }
        if let Some(limit) = read("limits").as_deref().and_then(descriptor_limit) {
            put(
                &mut encoder,
                "process_max_fds",
                "Limit on open file descriptors",
                &ConstGauge::new(limit),
            )?;
        }
        Ok(())
    }
}

fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn read(file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/self/{file}")).ok()
}

/// Fields 14 and 15 of `stat`, counted from 1. The second field is the program's name in brackets
/// and may hold anything, so counting starts behind the last bracket.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut ticks = behind_name.split_ascii_whitespace().skip(11);
    let user: u32 = ticks.next()?.parse().ok()?;
    let system: u32 = ticks.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

/// `VmRSS:     1234 kB`.
fn resident_bytes(status: &str) -> Option<i64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// `Max open files   1024   1048576   files`: the soft limit is the one that hits. `None` when
/// there is no limit.
fn descriptor_limit(limits: &str) -> Option<i64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// Includes the one that the count itself needs.
fn open_descriptors() -> Option<i64> {
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_with_brackets_and_spaces() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 4 0 9000 1000 10";
        assert_eq!(cpu_seconds(stat), Some(2.0));
    }

    #[test]
    fn memory_and_limits_are_read() {
        assert_eq!(
            resident_bytes("Name:\thermes\nVmRSS:\t   20480 kB\nThreads:\t4\n"),
            Some(20 * 1024 * 1024)
        );
        let limits =
            "Limit   Soft Limit   Hard Limit   Units\nMax open files   1024   1048576   files\n";
        assert_eq!(descriptor_limit(limits), Some(1024));
        assert_eq!(
            descriptor_limit("Max open files   unlimited   unlimited   files\n"),
            None
        );
    }

    #[test]
    fn this_process_has_memory_and_open_files() {
        assert!(read("status").as_deref().and_then(resident_bytes) > Some(0));
        assert!(open_descriptors() > Some(0));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (cpu_seconds(&text), resident_bytes(&text), descriptor_limit(&text));
        }
    }
}
