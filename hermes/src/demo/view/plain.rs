//! A line every few seconds, for pipes and logs.

use std::{
    fmt,
    io::{self, Write, stdout},
    time::Duration,
};

use super::super::moment::Moment;

/// When the next line is due.
#[derive(Debug)]
pub(crate) struct Plain {
    period: Duration,
    strategy: &'static str,
    due: Duration,
}

/// A moment as one line.
struct Line<'a>(&'a Moment);

impl Plain {
    /// A line each `period`.
    pub(crate) const fn every(period: Duration) -> Self {
        Self {
            period,
            strategy: "",
            due: Duration::ZERO,
        }
    }

    /// Prints the moment if a line is due.
    pub(crate) fn show(&mut self, moment: &Moment) -> io::Result<()> {
        if !self.is_due(moment) {
            return Ok(());
        }
        let mut out = stdout().lock();
        writeln!(out, "{}", Line(moment))?;
        out.flush()
    }

    fn is_due(&mut self, moment: &Moment) -> bool {
        if self.strategy != moment.strategy {
            self.strategy = moment.strategy;
            self.due = self.period;
        }
        let due = moment.elapsed >= self.due;
        if due {
            self.due = moment.elapsed + self.period;
        }
        due
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moment {
            strategy,
            elapsed,
            engines,
            outcomes,
            ..
        } = self.0;
        write!(f, "{strategy:<13} {:>5.1} s", elapsed.as_secs_f64())?;
        if let Some(now) = outcomes.last() {
            let (report, hits) = (&now.report, now.hit_percent());
            let (p50, p99) = (report.ttft.p50_ms, report.ttft.p99_ms);
            write!(
                f,
                "   requests {:>4}   ttft p50 {p50:>6.0} ms  p99 {p99:>6.0} ms   hit rate {hits:>3.0} %",
                report.requests
            )?;
        }
        let in_flight: Vec<String> = engines
            .iter()
            .map(|engine| engine.in_flight.to_string())
            .collect();
        write!(f, "   in flight {}", in_flight.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(strategy: &'static str, seconds: u64) -> Moment {
        let elapsed = Duration::from_secs(seconds);
        Moment {
            strategy,
            elapsed,
            progress: 0.0,
            router: String::new(),
            engines: Vec::new(),
            outcomes: Vec::new(),
        }
    }

    #[test]
    fn lines_are_a_period_apart_and_each_strategy_restarts_the_period() {
        let mut plain = Plain::every(Duration::from_secs(5));
        let due: Vec<u64> = (0..=11)
            .filter(|&second| plain.is_due(&moment("first", second)))
            .collect();
        assert_eq!(due, [5, 10]);
        assert!(!plain.is_due(&moment("second", 4)));
        assert!(plain.is_due(&moment("second", 5)));
    }
}
