//! Following one control-plane replica: its Sync stream and the Score streams of the workers,
//! opened again whenever one breaks.

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hermes_core::{
    backoff::Backoff,
    delta::SnapshotDelta,
    snapshot::{EndpointId, Epoch, Snapshot, Version},
};
use hermes_proto::{
    Message,
    v1::{self, from_control_plane::Message as Down, from_data_plane::Message as Up},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Response, Status, Streaming, transport::Channel};

use super::{
    dial::{Dialer, ReplicaAddress, causes},
    reports::{ReportOutbox, StreamRegistration},
    score_streams::ScoreStreams,
};
use crate::{
    link::{identity::ProxyIdentity, report::Reporter, score::ScoreClient},
    worker::WorkerRuntime,
};

/// Capacity of the queue to the replica; when it is full, reports are dropped and a resync follows.
const OUTBOUND: usize = 64;

/// Timeout of opening a stream.
const OPEN: Duration = Duration::from_secs(5);

/// The first pause between attempts, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// What a replica's task sends to the snapshot store.
pub(super) enum ReplicaEvent {
    /// A valid snapshot; after the first of a stream, the replica accepts Score requests.
    Snapshot {
        from: SocketAddr,
        name: Arc<str>,
        snapshot: Arc<Snapshot>,
        /// One for each worker.
        clients: Arc<[ScoreClient]>,
        /// Messages to the replica, while the stream is open.
        upwards: mpsc::Sender<v1::FromDataPlane>,
    },
    /// Clients in place of those of streams that broke.
    Clients {
        from: SocketAddr,
        /// One for each worker.
        clients: Arc<[ScoreClient]>,
    },
    /// Load rows.
    Loads {
        from: SocketAddr,
        rows: Vec<v1::EndpointLoad>,
    },
    /// An invalid snapshot or delta.
    Rejected,
    /// The stream broke.
    Lost { from: SocketAddr },
}

/// Follows one replica.
pub(super) struct ReplicaFollower {
    pub(super) address: ReplicaAddress,
    pub(super) dialer: Dialer,
    pub(super) identity: ProxyIdentity,
    pub(super) events: mpsc::Sender<ReplicaEvent>,
    pub(super) outbox: ReportOutbox,
    pub(super) reporter: Arc<Reporter>,
    pub(super) workers: Arc<[WorkerRuntime]>,
}

/// The newest snapshot of one stream.
struct SyncedSnapshot {
    name: Arc<str>,
    snapshot: Arc<Snapshot>,
}

impl ReplicaFollower {
    /// Keeps the streams open until the task is aborted, and reports each loss. The one that
    /// aborts it reports the last one.
    pub(super) async fn follow(self) {
        let seed = self.identity.proxy ^ u64::from(self.address.socket.port());
        let mut backoff = Backoff::new(BACKOFF, seed);
        let mut last_reason = String::new();
        loop {
            let mut synced = None;
            let status = self.stream(&mut synced).await;
            let (address, reason) = (self.address.socket, reason_of(&status));
            if synced.is_some() {
                tracing::info!(%address, reason, "lost a control-plane replica");
                backoff.reset();
                last_reason.clear();
            } else if last_reason != reason {
                // Logged once per reason: a replica restarts within seconds, but a wrong
                // certificate may last for days.
                tracing::warn!(%address, reason, "cannot reach a control-plane replica");
                last_reason = reason;
            }
            if self
                .events
                .send(ReplicaEvent::Lost {
                    from: self.address.socket,
                })
                .await
                .is_err()
            {
                break;
            }
            sleep(backoff.next_pause()).await;
        }
    }

    /// Opens the streams and reads them until one ends; returns the reason.
    async fn stream(&self, synced: &mut Option<SyncedSnapshot>) -> Status {
        let Self {
            address,
            dialer,
            workers,
            ..
        } = self;
        let channel = match dialer.connect(address).await {
            Ok(channel) => channel,
            Err(status) => return status,
        };
        let mut scoring = match ScoreStreams::open(workers, dialer, address).await {
            Ok(scoring) => scoring,
            Err(status) => return status,
        };
        let (upwards, outbound) = mpsc::channel(OUTBOUND);
        let registration = self.outbox.register(upwards.clone());
        let mut down = match self.open_sync(channel, &upwards, outbound).await {
            Ok(down) => down,
            Err(status) => return status,
        };
        let mut clients = scoring.clients();
        loop {
            let message = tokio::select! {
                message = down.next() => message,
                () = scoring.changed() => {
                    clients = scoring.clients();
                    let from = address.socket;
                    let changed = ReplicaEvent::Clients { from, clients: Arc::clone(&clients) };
                    match self.send(changed).await {
                        Ok(()) => continue,
                        Err(status) => return status,
                    }
                }
            };
            let message = match message {
                Some(Ok(v1::FromControlPlane { message })) => message,
                Some(Err(status)) => return status,
                None => return Status::unavailable("the control plane ended the Sync stream"),
            };
            if let Err(status) = self
                .handle(message, synced, &clients, &upwards, &registration)
                .await
            {
                return status;
            }
        }
    }

    /// Opens a Sync stream, whose first messages say who this proxy is and what it has open.
    async fn open_sync(
        &self,
        channel: Channel,
        upwards: &mpsc::Sender<v1::FromDataPlane>,
        outbound: mpsc::Receiver<v1::FromDataPlane>,
    ) -> Result<Streaming<v1::FromControlPlane>, Status> {
        let mut client = v1::router_client::RouterClient::new(channel)
            .max_decoding_message_size(hermes_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(hermes_proto::MAX_MESSAGE_BYTES);
        for message in [
            Up::Hello(self.identity.hello()),
            Up::Open(self.reporter.open_requests()),
        ] {
            // The channel is new and has room for both.
            let _ = upwards.try_send(v1::FromDataPlane {
                message: Some(message),
            });
        }
        match timeout(OPEN, client.sync(ReceiverStream::new(outbound))).await {
            Ok(opened) => opened.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("the Sync stream did not open")),
        }
    }

    /// Handles one message; an error ends the stream.
    async fn handle(
        &self,
        message: Option<Down>,
        synced: &mut Option<SyncedSnapshot>,
        clients: &Arc<[ScoreClient]>,
        upwards: &mpsc::Sender<v1::FromDataPlane>,
        registration: &StreamRegistration,
    ) -> Result<(), Status> {
        let from = self.address.socket;
        let next = match (message, synced.as_ref()) {
            (Some(Down::Load(bytes)), Some(_)) => {
                let v1::LoadUpdate { loads: rows } = decoded(bytes)?;
                return self.send(ReplicaEvent::Loads { from, rows }).await;
            }
            (Some(Down::Snapshot(bytes)), _) => from_full(decoded(bytes)?),
            (Some(Down::Delta(bytes)), Some(synced)) => from_delta(decoded(bytes)?, synced),
            // Load without a snapshot has no endpoints to apply to; unknown kinds of messages are
            // skipped.
            (Some(Down::Load(_)) | None, _) => return Ok(()),
            (Some(Down::Delta(_)), None) => {
                return Err(Status::failed_precondition(
                    "a delta came before a snapshot",
                ));
            }
        };
        let (event, answer) = match next {
            Ok(next) => {
                let event = ReplicaEvent::Snapshot {
                    from,
                    name: Arc::clone(&next.name),
                    snapshot: Arc::clone(&next.snapshot),
                    clients: Arc::clone(clients),
                    upwards: upwards.clone(),
                };
                let answer = next.ack();
                *synced = Some(next);
                (event, answer)
            }
            Err(unusable) => {
                let UnusableSnapshot {
                    version, reason, ..
                } = &unusable;
                tracing::warn!(address = %from, version = version.0, reason, "rejected an invalid snapshot; the last valid one stays in use");
                (ReplicaEvent::Rejected, unusable.reject())
            }
        };
        self.send(event).await?;
        registration.send(upwards, answer);
        Ok(())
    }

    async fn send(&self, event: ReplicaEvent) -> Result<(), Status> {
        self.events
            .send(event)
            .await
            .map_err(|_| Status::cancelled("the proxy is shutting down"))
    }
}

/// The text of an error for logs. The causes matter: only the last one names a rejected
/// certificate's fault.
pub(super) fn reason_of(status: &Status) -> String {
    match status.source() {
        Some(cause) => format!("{}: {}", status.message(), causes(cause)),
        None => status.message().to_owned(),
    }
}

/// An invalid snapshot or delta, and the reason.
struct UnusableSnapshot {
    epoch: Epoch,
    version: Version,
    reason: String,
}

impl SyncedSnapshot {
    fn ack(&self) -> Up {
        let Snapshot { epoch, version, .. } = *self.snapshot;
        Up::Ack(v1::Ack {
            epoch: epoch.0,
            version: version.0,
        })
    }
}

impl UnusableSnapshot {
    fn reject(self) -> Up {
        let Self {
            epoch,
            version,
            reason,
        } = self;
        Up::Reject(v1::Reject {
            epoch: epoch.0,
            version: version.0,
            reason,
        })
    }
}

/// The message in these bytes. Of one that is no message the version is unknown, so it cannot be
/// rejected: the stream ends, and the last valid snapshot stays in use.
fn decoded<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes)
        .map_err(|error| Status::internal(format!("the replica sent an invalid message: {error}")))
}

fn from_full(wire: v1::Snapshot) -> Result<SyncedSnapshot, UnusableSnapshot> {
    let (epoch, version) = (Epoch(wire.epoch), Version(wire.version));
    let name = Arc::from(wire.replica.as_str());
    match Snapshot::try_from(wire) {
        Ok(snapshot) => Ok(SyncedSnapshot {
            name,
            snapshot: Arc::new(snapshot),
        }),
        Err(invalid) => Err(UnusableSnapshot {
            epoch,
            version,
            reason: invalid.to_string(),
        }),
    }
}

fn from_delta(
    wire: v1::Delta,
    synced: &SyncedSnapshot,
) -> Result<SyncedSnapshot, UnusableSnapshot> {
    let (epoch, version) = (Epoch(wire.epoch), Version(wire.version));
    let unusable = |reason: String| UnusableSnapshot {
        epoch,
        version,
        reason,
    };
    let delta = SnapshotDelta::try_from(wire).map_err(|invalid| unusable(invalid.to_string()))?;
    let snapshot = delta
        .apply(&synced.snapshot)
        .map_err(|wrong| unusable(wrong.to_string()))?;
    Ok(SyncedSnapshot {
        name: Arc::clone(&synced.name),
        snapshot: Arc::new(snapshot),
    })
}

/// The endpoint of a load row.
pub(super) const fn endpoint_of(row: &v1::EndpointLoad) -> EndpointId {
    EndpointId(row.endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced(version: u64) -> SyncedSnapshot {
        SyncedSnapshot {
            name: "replica-0".into(),
            snapshot: Arc::new(Snapshot {
                version: Version(version),
                ..Snapshot::default()
            }),
        }
    }

    #[test]
    fn a_delta_that_cannot_be_used_is_rejected_by_its_version_and_the_reason() {
        let reason = |wire: v1::Delta| {
            let version = wire.version;
            let unusable = from_delta(wire, &synced(1)).err().expect("it is rejected");
            assert_eq!(unusable.version, Version(version));
            unusable.reason
        };
        let unnamed = v1::Pools {
            set: vec![v1::Pool::default()],
            gone: Vec::new(),
        };
        let content = |pools| v1::Content {
            pools: Some(pools),
            ..v1::Content::default()
        };
        let delta = |from_version, pools| v1::Delta {
            from_version,
            version: 9,
            changes: Some(content(pools)),
            ..v1::Delta::default()
        };
        assert_eq!(
            reason(delta(1, unnamed)),
            "changes.pools.set[0].name: is empty; a pool needs a name"
        );
        let gone = v1::Pools {
            set: Vec::new(),
            gone: vec!["chat".into()],
        };
        assert_eq!(
            reason(delta(1, gone)),
            "the delta changes the pool chat, which is not there"
        );
        assert!(reason(delta(7, v1::Pools::default())).contains("applies to version 7"));
    }

    #[test]
    fn bytes_that_are_no_message_end_the_stream() {
        let status = decoded::<v1::Delta>(Bytes::from_static(&[0xff])).expect_err("no message");
        assert_eq!(status.code(), tonic::Code::Internal);
    }
}
