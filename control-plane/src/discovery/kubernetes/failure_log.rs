//! Which failures of a source are logged: an API server that is away fails each watch of each pool
//! every few seconds.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest time from one logged failure to the next: a server that lists well and breaks each
/// watch changes all the time.
const PAUSE: Duration = Duration::from_secs(60);

/// The failures of one source, with all its watches.
#[derive(Debug, Default)]
pub(crate) struct FailureLog {
    /// When a failure was logged last.
    last: Option<Instant>,
    /// It has not been followed by the line that all is well.
    is_open: bool,
}

impl FailureLog {
    /// A watch failed. Returns whether to log it: it is the first since all worked.
    pub(crate) fn fails(&mut self, now: Instant) -> bool {
        let is_recent = self.last.is_some_and(|last| now - last < PAUSE);
        if self.is_open || is_recent {
            return false;
        }
        (self.last, self.is_open) = (Some(now), true);
        true
    }

    /// All watches work. Returns whether to log it: the last line was a failure.
    pub(crate) fn works(&mut self) -> bool {
        std::mem::take(&mut self.is_open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_two_lines() {
        let (mut log, start) = (FailureLog::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(log.fails(at(0)));
        let later = (1..3_600).filter(|second| log.fails(at(*second)));
        assert_eq!(later.count(), 0);
        assert!(log.works());
        assert!(!log.works());
        assert!(log.fails(at(3_600)), "the next outage");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_comes_and_goes_is_logged_once_a_minute() {
        let (mut log, start) = (FailureLog::default(), Instant::now());
        let mut lines = 0;
        for second in 0..600 {
            lines += u32::from(log.fails(start + Duration::from_secs(second)));
            lines += u32::from(log.works());
        }
        assert_eq!(lines, 20);
    }
}
