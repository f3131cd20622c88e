//! One proxy's records, line by line.

use std::{io, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::RecordError;
use crate::load::client::Target;

/// How long a proxy may take to connect and to begin its answer.
const BEGIN: Duration = Duration::from_secs(10);

/// Longest line taken, in bytes; a prompt of 8,192 blocks takes a sixth of it.
const MAX_LINE: usize = 1 << 20;

/// Longest message of a refusal.
const MAX_MESSAGE: usize = 1_024;

/// What a proxy says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A request, as it is to be written down.
    Record { facts: Facts, text: Vec<u8> },
    /// Number of requests that the proxy dropped.
    Lost(u64),
    /// The proxy at this admin port says no more.
    Gone(String),
}

/// A recording of one proxy that has begun.
pub(super) struct Listener {
    admin: String,
    body: Incoming,
    /// Moves the connection's bytes.
    driver: AbortOnDropHandle<()>,
}

/// What the recorder reads of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Facts {
    /// Arrival, in milliseconds since the recording began.
    pub(super) timestamp: u64,
    /// Prompt length in tokens.
    #[serde(default)]
    pub(super) input_length: u64,
    /// Prompt length in bytes.
    #[serde(default)]
    pub(super) prompt_bytes: u64,
}

/// The field by which kinds of lines are distinguished.
#[derive(Deserialize)]
#[serde(untagged)]
enum Head {
    Record(Facts),
    Lost { lost: u64 },
}

// === Listener ===

impl Listener {
    /// Asks the proxy behind this admin port for its records.
    pub(super) async fn open(admin: &str) -> Result<Self, RecordError> {
        let target = Target::parse(admin)?;
        let opened = timeout(BEGIN, ask(&target))
            .await
            .unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
        let (response, driver) = opened.map_err(|source| RecordError::Connect {
            admin: admin.to_owned(),
            source,
        })?;
        let status = response.status();
        if status != StatusCode::OK {
            let body = timeout(
                BEGIN,
                Limited::new(response.into_body(), MAX_MESSAGE).collect(),
            )
            .await;
            let message = body
                .ok()
                .and_then(Result::ok)
                .map(http_body_util::Collected::to_bytes)
                .unwrap_or_default();
            let message = String::from_utf8_lossy(&message).trim().to_owned();
            return Err(RecordError::Refused {
                admin: admin.to_owned(),
                status: status.as_u16(),
                message,
            });
        }
        Ok(Self {
            admin: admin.to_owned(),
            body: response.into_body(),
            driver,
        })
    }

    /// Hands out lines until the proxy or the receiver ends.
    pub(super) async fn run(self, into: mpsc::Sender<Line>) {
        let Self {
            admin,
            mut body,
            driver,
        } = self;
        let mut lines = Lines::default();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            for line in lines.take(&bytes) {
                if into.send(line).await.is_err() {
                    return;
                }
            }
        }
        drop(driver);
        // A receiver that is gone needs no error.
        let _ended = into.send(Line::Gone(admin)).await;
    }
}

/// Connects and asks.
async fn ask(target: &Target) -> io::Result<(Response<Incoming>, AbortOnDropHandle<()>)> {
    let stream = TcpStream::connect(target.authority()).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        // How the connection ended, the body's reader sees.
        let _ended = connection.await;
    }));
    let request = Request::get(target.path("/debug/records"))
        .header(header::HOST, target.authority())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    Ok((response, driver))
}

// === Lines ===

/// Puts lines together from pieces.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
    /// The line that is coming is too long, and left out.
    skipping: bool,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let fits = self.rest.len() + piece.len() <= MAX_LINE;
            if fits && !self.skipping {
                self.rest.extend_from_slice(piece);
            } else {
                self.skipping = true;
            }
            if piece.ends_with(b"\n") {
                let text = std::mem::take(&mut self.rest);
                // A line that is no record counts as dropped.
                let skipped = std::mem::take(&mut self.skipping);
                lines.push(if skipped { Line::Lost(1) } else { read(text) });
            }
        }
        lines
    }
}

fn read(text: Vec<u8>) -> Line {
    match serde_json::from_slice(&text) {
        Ok(Head::Record(facts)) => Line::Record { facts, text },
        Ok(Head::Lost { lost }) => Line::Lost(lost),
        Err(_) => Line::Lost(1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn lines_come_together_wherever_they_are_cut() {
        let text = b"{\"timestamp\":7,\"hash_ids\":[1]}\n{\"lost\":3}\nnonsense\n{\"timestamp\":8}\n{\"timest";
        let whole = Lines::default().take(text);
        assert_eq!(whole.len(), 4);
        assert!(
            matches!(&whole[0], Line::Record { facts: Facts { timestamp: 7, .. }, text } if text.ends_with(b"]}\n"))
        );
        assert_eq!((&whole[1], &whole[2]), (&Line::Lost(3), &Line::Lost(1)));
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut pieces = lines.take(&text[..cut]);
            pieces.extend(lines.take(&text[cut..]));
            assert_eq!(pieces, whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_line_without_end_holds_no_memory() {
        let mut lines = Lines::default();
        for _ in 0..40 {
            assert!(lines.take(&[b'x'; 64 << 10]).is_empty());
        }
        assert!(lines.rest.len() <= MAX_LINE);
        assert_eq!(lines.take(b"\n{\"timestamp\":1}\n").len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_lines(pieces in vec(vec(any::<u8>(), 0..50), 0..10)) {
            let mut lines = Lines::default();
            let count: usize = pieces.iter().map(|piece| lines.take(piece).len()).sum();
            prop_assert_eq!(count, pieces.concat().iter().filter(|&&byte| byte == b'\n').count());
        }
    }
}
