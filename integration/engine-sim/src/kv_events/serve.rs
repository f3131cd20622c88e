//! The two sockets of a publisher: PUB for subscribers, ROUTER for those who missed something.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::publisher::Publisher;
use super::zmtp::{self, Received};
use crate::transport::port::Port;

/// How long to wait after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What clients may say before they are listened to.
const UNREAD: usize = 16;

/// Which of the two.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    Publish,
    Replay,
}

/// The other side of a PUB socket.
struct Subscriber {
    writer: OwnedWriteHalf,
    /// The topics that it wants.
    topics: Vec<Vec<u8>>,
}

/// Accepts for ever; dropping the future ends all connections.
pub(crate) async fn serve(port: Arc<Port>, publisher: Arc<Publisher>, role: Role) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = port.accept() => match accepted {
                Ok(stream) => {
                    let publisher = Arc::clone(&publisher);
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, &publisher, role).await {
                            tracing::trace!(%error, "a client of the simulated publisher left");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the simulated publisher could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

/// One connection until it ends, accepted or made.
pub(super) async fn connection(
    mut stream: TcpStream,
    publisher: &Publisher,
    role: Role,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match role {
        Role::Publish => {
            zmtp::shake_hands(&mut stream, "PUB").await?;
            publish(stream, publisher).await
        }
        Role::Replay => {
            zmtp::shake_hands(&mut stream, "ROUTER").await?;
            replay(stream, publisher).await
        }
    }
}

async fn publish(stream: TcpStream, publisher: &Publisher) -> io::Result<()> {
    let (mut reader, writer) = stream.into_split();
    let (sender, mut received_messages) = mpsc::channel(UNREAD);
    let _reading = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok(received) = zmtp::receive(&mut reader).await {
            if sender.send(received).await.is_err() {
                return;
            }
        }
    }));
    let mut disconnects = publisher.disconnects();
    let mut subscriber = Subscriber {
        writer,
        topics: Vec::new(),
    };
    while subscriber.topics.is_empty() {
        let Some(received) = received_messages.recv().await else {
            return Ok(());
        };
        subscriber.obey(received).await?;
    }
    let mut live = publisher.subscribe();
    loop {
        if publisher.is_mute() {
            return pending().await;
        }
        tokio::select! {
            received = received_messages.recv() => match received {
                None => return Ok(()),
                Some(received) => subscriber.obey(received).await?,
            },
            batch = live.recv() => match batch {
                Ok(batch) => {
                    if let Some(message) = publisher.message(&batch, &subscriber.topics) {
                        subscriber.writer.write_all(&message).await?;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return Ok(()),
            },
            _ = disconnects.changed() => return Ok(()),
        }
    }
}

impl Subscriber {
    /// Follows a subscription or a command.
    async fn obey(&mut self, received: Received) -> io::Result<()> {
        match received {
            Received::Command(command) => {
                if let Some(answer) = zmtp::answer(&command) {
                    self.writer.write_all(&answer).await?;
                }
            }
            Received::Message(frames) => {
                match frames.first().and_then(|frame| frame.split_first()) {
                    Some((1, topic)) => self.topics.push(topic.to_vec()),
                    Some((0, topic)) => self.topics.retain(|known| known != topic),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

async fn replay(mut stream: TcpStream, publisher: &Publisher) -> io::Result<()> {
    loop {
        match zmtp::receive(&mut stream).await? {
            Received::Command(command) => {
                if let Some(answer) = zmtp::answer(&command) {
                    stream.write_all(&answer).await?;
                }
            }
            // As vLLM: a question of another form is dropped.
            Received::Message(frames) => {
                let [empty, first] = &frames[..] else {
                    continue;
                };
                let Some(first) = first.first_chunk().filter(|_| empty.is_empty()) else {
                    continue;
                };
                stream
                    .write_all(&publisher.replay(u64::from_be_bytes(*first)))
                    .await?;
            }
        }
    }
}
