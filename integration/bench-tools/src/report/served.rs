//! What happened to one request.

use std::time::Duration;

/// What happened to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// When it arrived, since the start of the trace.
    pub arrived: Duration,
    /// When it was placed on a server.
    pub placed: Duration,
    /// On which; if it was split, the one that computed its prompt.
    pub server: Option<usize>,
    /// If it was split, where its answer was generated.
    pub decode: Option<usize>,
    /// If it was split, when its prompt was computed.
    pub prefilled: Option<Duration>,
    /// When its first token came out.
    pub first_token: Duration,
    /// When its last token came out.
    pub finished: Duration,
    /// Length of its prompt.
    pub prompt_tokens: usize,
    /// How much of its prompt was in the server's cache.
    pub cached_tokens: usize,
    /// Length of its answer.
    pub output_tokens: u32,
}

impl Served {
    pub(crate) fn arrived(now: Duration, prompt_tokens: usize) -> Self {
        Self {
            arrived: now,
            prompt_tokens,
            ..Self::default()
        }
    }

    /// Seconds from arrival to first token.
    #[must_use]
    pub fn ttft(&self) -> f64 {
        self.first_token.saturating_sub(self.arrived).as_secs_f64()
    }

    /// Seconds per token after the first; `None` for an answer of one token.
    #[must_use]
    pub fn tpot(&self) -> Option<f64> {
        let decoding = self.finished.saturating_sub(self.first_token).as_secs_f64();
        (self.output_tokens > 1).then(|| decoding / f64::from(self.output_tokens - 1))
    }
}
