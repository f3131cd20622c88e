//! The Score streams to one replica: one for each worker.
//!
//! A request, its question and its answer stay on one thread. Through a stream that all workers
//! share, each question and each answer would wake a second thread, which costs more than the
//! choice itself.
//!
//! A stream that breaks is opened again, alone: the other workers' streams, and the Sync stream,
//! have connections of their own, and what broke one of them, as a message that the replica
//! rejects, is no reason to give the rest up.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use hermes_core::backoff::Backoff;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::Status;

use super::dial::{Dialer, ReplicaAddress};
use crate::{
    link::score::{self, ScoreClient, ScoreStream},
    worker::WorkerRuntime,
};

/// Shortest and longest pause before a stream is opened again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// Streams that are open, or are being opened, until they are dropped.
pub(super) struct ScoreStreams {
    workers: Arc<[WorkerRuntime]>,
    dialer: Dialer,
    address: ReplicaAddress,
    /// One for each worker, in their order.
    clients: Vec<ScoreClient>,
    running: JoinSet<EndedStream>,
    /// One for each worker.
    backoffs: Vec<Backoff>,
    reopened: (mpsc::Sender<ReopenedStream>, mpsc::Receiver<ReopenedStream>),
}

/// A stream that has ended.
struct EndedStream {
    worker: usize,
    status: Status,
    /// How long after it was dialed it ended.
    lived: Duration,
}

/// The client of a stream in place of one that broke.
struct ReopenedStream {
    worker: usize,
    client: ScoreClient,
}

impl ScoreStreams {
    /// Connects every worker to the replica.
    ///
    /// # Errors
    ///
    /// When a worker cannot connect.
    pub(super) async fn open(
        workers: &Arc<[WorkerRuntime]>,
        dialer: &Dialer,
        address: &ReplicaAddress,
    ) -> Result<Self, Status> {
        let port = u64::from(address.socket.port());
        let mut streams = Self {
            workers: Arc::clone(workers),
            dialer: dialer.clone(),
            address: address.clone(),
            clients: Vec::with_capacity(workers.len()),
            running: JoinSet::new(),
            backoffs: (0..)
                .zip(workers.iter())
                .map(|(worker, _)| Backoff::new(BACKOFF, port ^ worker))
                .collect(),
            reopened: mpsc::channel(workers.len().max(1)),
        };
        for worker in 0..workers.len() {
            streams.open_first(worker).await?;
        }
        Ok(streams)
    }

    /// Connects a worker, and returns when that is done: one after the other, as all proxies
    /// connect to a replica that restarted at once.
    async fn open_first(&mut self, worker: usize) -> Result<(), Status> {
        let (client, stream) = score::channel();
        self.clients.push(client);
        // The stream of a worker that did not start is dropped, which marks its client as broken.
        let Some(runtime) = self.workers[worker].handle().await else {
            return Ok(());
        };
        let (connected, connection) = oneshot::channel();
        let (dialer, address) = (self.dialer.clone(), self.address.clone());
        let running = async move {
            let began = Instant::now();
            let status = caught(run(dialer, address, stream, connected)).await;
            EndedStream {
                worker,
                status,
                lived: began.elapsed(),
            }
        };
        self.running.spawn_on(running, &runtime);
        // A worker that ended meanwhile asks no more, so only a failed connection is an error.
        connection.await.unwrap_or(Ok(()))
    }

    /// One client for each worker, in their order.
    pub(super) fn clients(&self) -> Arc<[ScoreClient]> {
        self.clients.as_slice().into()
    }

    /// Returns when another client is to be used for a worker. Streams that break are opened again
    /// meanwhile; a worker that ends takes its stream along.
    pub(super) async fn changed(&mut self) {
        loop {
            tokio::select! {
                Some(ReopenedStream { worker, client }) = self.reopened.1.recv() => {
                    self.clients[worker] = client;
                    return;
                }
                // One without a result has ended with its worker.
                Some(ended) = self.running.join_next() => if let Ok(ended) = ended {
                    self.reopen(ended).await;
                },
            }
        }
    }

    async fn reopen(&mut self, ended: EndedStream) {
        let EndedStream {
            worker,
            status,
            lived,
        } = ended;
        // A replica that accepts connections and refuses streams is not dialed in a loop.
        if lived > BACKOFF.1 {
            self.backoffs[worker].reset();
        }
        let address = self.address.socket;
        tracing::info!(%address, worker, reason = status.message(), "a Score stream broke; it is opened again");
        let Some(runtime) = self.workers[worker].handle().await else {
            return;
        };
        let (dialer, address) = (self.dialer.clone(), self.address.clone());
        let reopened = self.reopened.0.clone();
        let pause = self.backoffs[worker].next_pause();
        let running = async move {
            sleep(pause).await;
            let began = Instant::now();
            let (connected, connection) = oneshot::channel();
            let (client, stream) = score::channel();
            let publish = async {
                if let Ok(Ok(())) = connection.await {
                    // There is room for one of each worker.
                    let _ = reopened.send(ReopenedStream { worker, client }).await;
                }
            };
            let (status, ()) =
                tokio::join!(caught(run(dialer, address, stream, connected)), publish);
            EndedStream {
                worker,
                status,
                lived: began.elapsed(),
            }
        };
        self.running.spawn_on(running, &runtime);
    }
}

/// How a stream ended; one whose task panics has broken, and is opened again.
async fn caught(stream: impl Future<Output = Status>) -> Status {
    AssertUnwindSafe(stream)
        .catch_unwind()
        .await
        .unwrap_or_else(|_payload| Status::internal("its task panicked"))
}

/// Connects, reports whether that worked, and answers requests until the stream breaks.
async fn run(
    dialer: Dialer,
    address: ReplicaAddress,
    stream: ScoreStream,
    connected: oneshot::Sender<Result<(), Status>>,
) -> Status {
    match dialer.connect(&address).await {
        Ok(channel) => {
            // The receiver is gone when the replica is no longer followed.
            let _ = connected.send(Ok(()));
            score::run(stream, channel).await
        }
        Err(status) => {
            let _ = connected.send(Err(status.clone()));
            status
        }
    }
}
