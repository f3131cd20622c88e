//! KV caches on their way from the server that computed a prompt to the one that generates the
//! answer.
//!
//! One cache after the other leaves a server, and one after the other comes in: its link is busy
//! for `tokens / rate`. A fixed time for what both sides say to each other comes on top, during
//! which the links are free.

use std::time::Duration;

/// How fast KV caches move between servers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TransferSpeed {
    /// Of each transfer, whatever its size.
    pub base: Duration,
    /// Tokens a second over the link of one server; above zero.
    pub rate: f64,
}

/// The default of a mid-size model on one data-center GPU: 131,072 bytes a token (Llama 3.1 8B: 32
/// layers, 8 KV heads of 128, keys and values of 2 bytes) at 40 GB/s, which is four fifths of 400
/// Gb/s, are 305,000 tokens a second. A model of 32 B parameters has twice the bytes (Qwen3: 64
/// layers). Between GPUs of one machine, with vLLM's blocks of 16 tokens, 7,500 tokens were reported to
/// take 20 ms, and 8 ms in larger pieces.
impl Default for TransferSpeed {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(5),
            rate: 300_000.0,
        }
    }
}

/// The links of all servers.
#[derive(Debug)]
pub(super) struct Links {
    speed: TransferSpeed,
    /// When each is free.
    free: Vec<Duration>,
}

impl Links {
    /// Idle links of this number of servers.
    pub(super) fn new(servers: usize, speed: TransferSpeed) -> Self {
        Self {
            speed,
            free: vec![Duration::ZERO; servers],
        }
    }

    /// A cache of `tokens` tokens is to be moved. Answers when it is there.
    pub(super) fn transfer(
        &mut self,
        from: usize,
        to: usize,
        tokens: usize,
        now: Duration,
    ) -> Duration {
        let start = now.max(self.free[from]).max(self.free[to]);
        let seconds = tokens as f64 / self.speed.rate;
        let took = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let end = start.saturating_add(took);
        (self.free[from], self.free[to]) = (end, end);
        end.saturating_add(self.speed.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_that_share_a_link_wait_for_each_other_and_others_do_not() {
        let ms = Duration::from_millis;
        let speed = TransferSpeed {
            base: ms(5),
            rate: 1e5,
        };
        let mut links = Links::new(4, speed);
        assert_eq!(links.transfer(0, 2, 10_000, ms(1_000)), ms(1_105));
        assert_eq!(links.transfer(1, 2, 10_000, ms(1_050)), ms(1_205));
        assert_eq!(links.transfer(0, 3, 1_000, ms(1_050)), ms(1_115));
    }
}
