//! Requests from a publisher the batches that it published before.
//!
//! ```text
//!   DEALER ── ["", first number] ─────────────────────────▶ ROUTER
//!          ◀─ ["", topic?, number, payload] … ─ then ["", ""?, ff×8, ""]
//! ```
//!
//! Old engines leave out the topic. The answer has no upper end: it goes on to the publisher's
//! present. A ROUTER drops what does not fit its queue (1,000 messages, unless an engine says
//! otherwise), and a publisher writes much faster than that: long answers have holes, or no end.
//! Then the rest is asked for again.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    metrics::StreamFailure,
    zmtp::{Message, Peer, Socket},
};

/// How long an answer may take to begin. vLLM looks for questions ten times a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest silence inside an answer, which is written in one go.
const SILENCE: Duration = Duration::from_secs(1);

/// The number that ends an answer: -1.
const END: u64 = u64::MAX;

/// One open question.
#[derive(Debug)]
pub(super) struct Replay {
    peer: Peer,
    patience: Duration,
}

/// One batch of an answer.
#[derive(Debug)]
pub(super) struct ReplayedBatch {
    pub(super) number: u64,
    pub(super) payload: bytes::Bytes,
}

// === Replay ===

impl Replay {
    /// Asks the replay socket at `authority` for all batches from `first` on.
    pub(super) async fn ask(authority: &str, first: u64) -> Result<Self, StreamFailure> {
        let asked = async {
            let mut peer = Peer::connect(authority, Socket::Dealer).await?;
            peer.send(&[b"", &first.to_be_bytes()]).await?;
            Ok(Self {
                peer,
                patience: PATIENCE,
            })
        };
        timeout(PATIENCE, asked)
            .await
            .map_err(|_| StreamFailure::Timeout)?
            .map_err(|error| StreamFailure::of(&error))
    }

    /// The next batch; nothing at the end.
    pub(super) async fn next(&mut self) -> Result<Option<ReplayedBatch>, StreamFailure> {
        let message = async {
            loop {
                if let Some(message) = self.peer.next().await? {
                    return Ok(message);
                }
            }
        };
        let message = timeout(self.patience, message)
            .await
            .map_err(|_| StreamFailure::Timeout)?;
        let message = message.map_err(|error| StreamFailure::of(&error))?;
        self.patience = SILENCE;
        let ReplayedBatch { number, payload } = read(message).ok_or(StreamFailure::Protocol)?;
        Ok((number != END).then_some(ReplayedBatch { number, payload }))
    }
}

/// The last two frames of a message: a number and a payload.
pub(super) fn read(mut message: Message) -> Option<ReplayedBatch> {
    let payload = message.pop()?;
    let number = message.pop()?;
    Some(ReplayedBatch {
        number: u64::from_be_bytes(number[..].try_into().ok()?),
        payload,
    })
}
