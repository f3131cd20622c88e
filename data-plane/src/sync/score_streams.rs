//! The Score streams to one replica: one for each worker.
//!
//! A request, its question and its answer stay on one thread. Through a stream that all workers
//! share, each question and each answer would wake a second thread, which costs more than the
//! choice itself.

use std::{future::pending, sync::Arc};

use tokio::{sync::oneshot, task::JoinSet};
use tonic::Status;

use super::dial::{Dialer, ReplicaAddress};
use crate::{
    link::score::{self, ScoreClient, ScoreStream},
    worker::WorkerRuntime,
};

/// Streams that are open until they break or are dropped.
pub(super) struct ScoreStreams {
    clients: Arc<[ScoreClient]>,
    running: JoinSet<Status>,
}

impl ScoreStreams {
    /// Connects every worker to the replica.
    ///
    /// # Errors
    ///
    /// When a worker cannot connect.
    pub(super) async fn open(
        workers: &[WorkerRuntime],
        dialer: &Dialer,
        address: &ReplicaAddress,
    ) -> Result<Self, Status> {
        let (mut clients, mut running) = (Vec::new(), JoinSet::new());
        for worker in workers {
            let (client, stream) = score::channel();
            clients.push(client);
            // The stream of a worker that did not start is dropped, which marks its client as
            // broken.
            if let Some(runtime) = worker.handle().await {
                let (connected, connection) = oneshot::channel();
                let task = run(dialer.clone(), address.clone(), stream, connected);
                running.spawn_on(task, &runtime);
                // One after the other: all proxies connect to a replica that restarted at once. A
                // worker that ended meanwhile asks no more, so only a failed connection is an
                // error.
                if let Ok(connected) = connection.await {
                    connected?;
                }
            }
        }
        Ok(Self {
            clients: clients.into(),
            running,
        })
    }

    /// One client for each worker, in their order.
    pub(super) fn clients(&self) -> Arc<[ScoreClient]> {
        Arc::clone(&self.clients)
    }

    /// Returns when a stream breaks, with its reason. A worker that ends takes its stream along:
    /// that breaks nothing for the others.
    pub(super) async fn broken(&mut self) -> Status {
        loop {
            match self.running.join_next().await {
                Some(Ok(status)) => return status,
                Some(Err(error)) if error.is_panic() => {
                    return Status::internal("the task of a Score stream panicked");
                }
                Some(Err(_)) => {}
                None => return pending().await,
            }
        }
    }
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
