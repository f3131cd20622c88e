//! What one run showed, as a row of a table.

use std::{fmt, fs, time::Duration};

use hdrhistogram::Histogram;

/// See the module. Latencies are in tenths of a microsecond.
pub(crate) struct Figures {
    pub(crate) calls: u64,
    pub(crate) took: Duration,
    pub(crate) latency: Histogram<u64>,
    pub(crate) server: Duration,
    pub(crate) client: Duration,
}

/// CPU time of this process's threads of this name.
pub(crate) fn cpu(name: &str) -> Duration {
    let threads = fs::read_dir("/proc/self/task").expect("Linux");
    let of_thread = |folder: fs::DirEntry| {
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap_or_default();
        // The first number of schedstat is time on the CPU in nanoseconds.
        let nanos: Option<u64> = read("schedstat")
            .split(' ')
            .next()
            .and_then(|nanos| nanos.parse().ok());
        nanos.filter(|_| read("comm").trim() == name)
    };
    Duration::from_nanos(threads.flatten().filter_map(of_thread).sum())
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = |quantile| self.latency.value_at_quantile(quantile) as f64 / 10.0;
        let per_call = |cpu: Duration| cpu.as_secs_f64() * 1e6 / self.calls.max(1) as f64;
        let rate = self.calls as f64 / self.took.as_secs_f64();
        let (server, client) = (per_call(self.server), per_call(self.client));
        write!(
            f,
            "{rate:.0} | {:.0} | {:.0} | {server:.1} | {client:.1}",
            micros(0.5),
            micros(0.99)
        )
    }
}
