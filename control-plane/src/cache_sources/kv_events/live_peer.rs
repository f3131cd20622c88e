//! A connection to a publisher that ends when its peer shows no sign of life.

use std::time::Duration;

use tokio::time::{self, Instant, Interval, MissedTickBehavior, timeout};

use super::{
    metrics::StreamFailure,
    zmtp::{Message, Peer, ZmtpError},
};

/// How often the publisher is asked for a sign of life.
const PING: Duration = Duration::from_secs(2);

/// Unanswered pings in a row after which a publisher that answers pings is gone.
const UNANSWERED: u32 = 3;

/// A connection, and the pings on it.
#[derive(Debug)]
pub(super) struct LivePeer {
    peer: Peer,
    pings: Interval,
    asked: Instant,
    unanswered: u32,
}

/// Why a stream is broken, for metrics and in words.
#[derive(Debug)]
pub(super) struct StreamLoss(pub(super) StreamFailure, pub(super) String);

// === LivePeer ===

impl LivePeer {
    pub(super) fn new(peer: Peer) -> Self {
        let mut pings = time::interval(PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            peer,
            pings,
            asked: Instant::now(),
            unanswered: 0,
        }
    }

    /// The connection itself.
    pub(super) fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }

    /// The next message. It may be dropped at any point and called again.
    pub(super) async fn next(&mut self) -> Result<Message, StreamLoss> {
        loop {
            tokio::select! {
                message = self.peer.next() => if let Some(message) = message? {
                    return Ok(message);
                },
                _ = self.pings.tick() => self.ping().await?,
            }
        }
    }

    async fn ping(&mut self) -> Result<(), StreamLoss> {
        self.unanswered = if self.peer.last_received() >= self.asked {
            0
        } else {
            self.unanswered + 1
        };
        if self.peer.answers_pings() && self.unanswered >= UNANSWERED {
            let words = format!("{} pings were not answered", self.unanswered);
            return Err(StreamLoss(StreamFailure::PingTimeout, words));
        }
        self.asked = Instant::now();
        let sent = timeout(PING, self.peer.ping()).await;
        Ok(sent.map_err(|_late| StreamLoss::unread())??)
    }
}

// === StreamLoss ===

impl StreamLoss {
    /// What it is sent does not leave.
    pub(super) fn unread() -> Self {
        let words = "the publisher does not read".to_owned();
        Self(StreamFailure::PingTimeout, words)
    }
}

impl From<ZmtpError> for StreamLoss {
    fn from(error: ZmtpError) -> Self {
        Self(StreamFailure::of(&error), error.to_string())
    }
}

// === StreamFailure ===

impl StreamFailure {
    pub(super) fn of(error: &ZmtpError) -> Self {
        match error {
            ZmtpError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Self::ConnectFailed
            }
            ZmtpError::Io(_) => Self::ConnectionBroken,
            ZmtpError::Protocol(_)
            | ZmtpError::WrongSocket(_)
            | ZmtpError::Refused(_)
            | ZmtpError::TooLarge => Self::Protocol,
        }
    }
}
