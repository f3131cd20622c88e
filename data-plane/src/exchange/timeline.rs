//! The times of one request: facts, and the durations that follow from them.

use std::time::Duration;

use tokio::time::Instant;

/// When a request arrived, and when the pieces of its answer were relayed, from the first token on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    arrived: Instant,
    first_byte: Option<Instant>,
    last_byte: Option<Instant>,
    pieces: u64,
}

impl Timeline {
    /// No piece of an answer was relayed yet.
    pub(super) const fn starting(arrived: Instant) -> Self {
        Self {
            arrived,
            first_byte: None,
            last_byte: None,
            pieces: 0,
        }
    }

    /// A piece with tokens was relayed; returns whether it is the first.
    pub(super) fn piece(&mut self, now: Instant) -> bool {
        self.pieces += 1;
        self.last_byte = Some(now);
        let is_first = self.first_byte.is_none();
        if is_first {
            self.first_byte = Some(now);
        }
        is_first
    }

    pub(super) const fn arrived(&self) -> Instant {
        self.arrived
    }

    pub(super) const fn pieces(&self) -> u64 {
        self.pieces
    }

    /// When the first piece with tokens was relayed.
    pub(super) const fn first_token(&self) -> Option<Instant> {
        self.first_byte
    }

    /// From the arrival to the first byte of the answer.
    pub(super) fn time_to_first_token(&self) -> Option<Duration> {
        self.first_byte.map(|first| first - self.arrived)
    }

    /// From the first byte to the last, of an answer in several pieces.
    pub(super) fn decoding(&self) -> Option<Duration> {
        let (first, last) = (self.first_byte?, self.last_byte?);
        (self.pieces > 1).then(|| last - first)
    }

    /// Seconds per output token after the first, of an answer in several pieces with this many
    /// tokens.
    pub(super) fn time_per_output_token(&self, tokens: u64) -> Option<f64> {
        let decoding = self.decoding()?;
        (tokens > 1).then(|| decoding.as_secs_f64() / (tokens - 1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_from_the_arrival_and_between_pieces() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut timeline = Timeline::starting(start);
        assert_eq!(timeline.time_to_first_token(), None);
        assert!(timeline.piece(at(30)));
        assert_eq!(timeline.decoding(), None, "one piece was not streamed");
        assert!(!timeline.piece(at(50)) && !timeline.piece(at(70)));
        let (ttft, decoding) = (timeline.time_to_first_token(), timeline.decoding());
        assert_eq!(ttft, Some(Duration::from_millis(30)));
        assert_eq!(decoding, Some(Duration::from_millis(40)));
        assert_eq!(timeline.time_per_output_token(5), Some(0.01));
        assert_eq!(timeline.time_per_output_token(1), None);
    }
}
