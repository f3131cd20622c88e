//! The results: one markdown table a quantity, and all of it as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::json;

use crate::cell::{Cell, Sample};
use crate::contender::Contender;
use crate::memory::Memory;

/// All that was measured.
#[derive(Debug)]
pub struct Results {
    names: Vec<&'static str>,
    samples: BTreeMap<(Cell, &'static str), Vec<Sample>>,
    memory: BTreeMap<&'static str, Memory>,
}

impl Results {
    /// Nothing measured yet; columns are in the order of `contenders`.
    pub fn new(contenders: &[Contender]) -> Self {
        let names = contenders.iter().map(|contender| contender.name).collect();
        Self {
            names,
            samples: BTreeMap::new(),
            memory: BTreeMap::new(),
        }
    }

    /// Adds a round's sample.
    pub fn sample(&mut self, cell: Cell, contender: &Contender, sample: Sample) {
        self.samples
            .entry((cell, contender.name))
            .or_default()
            .push(sample);
    }

    /// Adds a contender's memory.
    pub fn memory(&mut self, contender: &Contender, memory: Memory) {
        self.memory.insert(contender.name, memory);
    }

    /// Medians and samples of each cell and contender, and memory.
    pub fn json(&self) -> String {
        let samples = self.samples.iter().map(|((cell, name), samples)| {
            json!({"load": cell.to_string(), "proxy": name, "median": Sample::median(samples), "rounds": samples})
        });
        let memory = self.memory.iter().map(|(name, memory)| {
            json!({"proxy": name, "idle_kib": memory.idle_kib, "open_kib": memory.open_kib,
                   "per_stream_kib": memory.per_stream_kib()})
        });
        let all =
            json!({"requests": samples.collect::<Vec<_>>(), "memory": memory.collect::<Vec<_>>()});
        format!("{all:#}\n")
    }

    fn write_table(
        &self,
        out: &mut fmt::Formatter<'_>,
        title: &str,
        number: impl Fn(&Sample) -> String,
    ) -> fmt::Result {
        self.write_head(out, title)?;
        for cell in Cell::ALL {
            write!(out, "| {cell} |")?;
            for &name in &self.names {
                let samples = self
                    .samples
                    .get(&(cell, name))
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                let median = Sample::median(samples);
                // A number got while requests failed is not the cost of serving them.
                let mark = if median.failed > 0 {
                    format!(" ({} failed)", median.failed)
                } else {
                    String::new()
                };
                write!(out, " {}{mark} |", number(&median))?;
            }
            writeln!(out)?;
        }
        writeln!(out)
    }

    fn write_memory(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_head(out, "resident memory")?;
        let row = |memory: Option<&Memory>, number: fn(&Memory) -> Option<String>| {
            memory.and_then(number).unwrap_or_else(|| "–".to_owned())
        };
        let mib = |kib: u64| (kib > 0).then(|| format!("{:.1}", kib as f64 / 1024.0));
        write!(out, "| idle, MiB |")?;
        for name in &self.names {
            write!(
                out,
                " {} |",
                self.memory
                    .get(name)
                    .and_then(|memory| mib(memory.idle_kib))
                    .unwrap_or_default()
            )?;
        }
        write!(out, "\n| per open stream, KiB |")?;
        for name in &self.names {
            let number = |memory: &Memory| memory.per_stream_kib().map(|kib| format!("{kib:.1}"));
            write!(out, " {} |", row(self.memory.get(name), number))?;
        }
        writeln!(out)
    }

    fn write_head(&self, out: &mut fmt::Formatter<'_>, title: &str) -> fmt::Result {
        writeln!(out, "| {title} | {} |", self.names.join(" | "))?;
        writeln!(out, "|---|{}", "---|".repeat(self.names.len()))
    }
}

impl fmt::Display for Results {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_table(out, "CPU µs per request", |sample| {
            format!("{:.0}", sample.cpu_us)
        })?;
        self.write_table(out, "p50 / p99, ms", |sample| {
            format!("{:.2} / {:.2}", sample.p50_ms, sample.p99_ms)
        })?;
        self.write_table(out, "requests per second", |sample| {
            format!("{:.0}", sample.rps)
        })?;
        self.write_memory(out)
    }
}
