//! Following one control-plane replica: its Sync and Score streams, opened again whenever they break.

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use hermes_core::{
    delta::Delta,
    dice::Dice,
    snapshot::{EndpointId, Epoch, Snapshot, Version},
};
use hermes_proto::v1::{self, from_control_plane::Message as Down, from_data_plane::Message as Up};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::Status;

use super::{
    dial::{Dialer, ReplicaAddress, causes},
    reports::{ReportOutbox, StreamRegistration},
};
use crate::link::{
    identity::ProxyIdentity,
    report::Reporter,
    score::{self, ScoreClient},
};

/// Messages upwards that may wait; when they are more, reports are dropped and a resync follows.
const UPWARDS: usize = 64;

/// Opening a stream takes this long at most.
const OPEN: Duration = Duration::from_secs(5);

/// QueueTimer between attempts: doubles from the first to the second, with jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));

/// What a replica's task tells the board.
pub(super) enum ReplicaEvent {
    /// A usable snapshot; the first of a stream says that the replica can be asked.
    Snapshot {
        from: SocketAddr,
        name: Arc<str>,
        snapshot: Arc<Snapshot>,
        asker: ScoreClient,
        /// Where to say something to the replica, while the stream lives.
        upwards: mpsc::Sender<v1::FromDataPlane>,
    },
    /// Load rows.
    Loads {
        from: SocketAddr,
        rows: Vec<v1::EndpointLoad>,
    },
    /// A message that could not be used.
    Rejected,
    /// The stream broke.
    Lost { from: SocketAddr },
}

/// One replica.
pub(super) struct ReplicaFollower {
    pub(super) place: ReplicaAddress,
    pub(super) dialer: Dialer,
    pub(super) identity: ProxyIdentity,
    pub(super) news: mpsc::Sender<ReplicaEvent>,
    pub(super) outbox: ReportOutbox,
    pub(super) reporter: Arc<Reporter>,
}

/// What one stream has taught so far.
struct SyncedSnapshot {
    name: Arc<str>,
    snapshot: Arc<Snapshot>,
}

impl ReplicaFollower {
    /// Keeps both streams open until the task is aborted.
    pub(super) async fn follow(self) {
        let lost = LostOnDrop {
            from: self.place.address,
            news: self.news.clone(),
        };
        let mut dice = Dice::new(self.identity.proxy ^ u64::from(self.place.address.port()));
        let mut wait = BACKOFF.0;
        let mut told = String::new();
        loop {
            let mut taught = None;
            let status = self.stream(&mut taught).await;
            let (address, reason) = (self.place.address, reason_of(&status));
            if taught.is_some() {
                tracing::info!(%address, reason, "lost a control-plane replica");
                wait = BACKOFF.0;
                told.clear();
            } else if told != reason {
                // Once for each reason: replicas that restart are away for a while, certificates may be wrong for days.
                tracing::warn!(%address, reason, "a control-plane replica cannot be reached");
                told = reason;
            }
            if self
                .news
                .send(ReplicaEvent::Lost {
                    from: self.place.address,
                })
                .await
                .is_err()
            {
                break;
            }
            sleep(wait.mul_f32(0.5 + dice.unit())).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
        drop(lost);
    }

    /// One life of the pair of streams; returns why it ended.
    async fn stream(&self, taught: &mut Option<SyncedSnapshot>) -> Status {
        let (channel, score_channel) = match (
            self.dialer.connect(&self.place).await,
            self.dialer.connect(&self.place).await,
        ) {
            (Ok(channel), Ok(score_channel)) => (channel, score_channel),
            (Err(status), _) | (_, Err(status)) => return status,
        };
        let (upwards, outbound) = mpsc::channel(UPWARDS);
        let registration = self.outbox.register(upwards.clone());
        let mut client = v1::router_client::RouterClient::new(channel)
            .max_decoding_message_size(hermes_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(hermes_proto::MAX_MESSAGE_BYTES);
        for message in [
            Up::Hello(self.identity.hello()),
            Up::Open(self.reporter.open_requests()),
        ] {
            // The channel is new and holds more than these two.
            let _ = upwards.try_send(v1::FromDataPlane {
                message: Some(message),
            });
        }
        let mut down = match timeout(OPEN, client.sync(ReceiverStream::new(outbound))).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("the Sync stream did not open"),
        };
        let (asker, questions) = score::channel();
        let mut scoring = std::pin::pin!(score::run(questions, score_channel));
        loop {
            let message = tokio::select! {
                message = down.next() => message,
                status = &mut scoring => return status,
            };
            let message = match message {
                Some(Ok(v1::FromControlPlane { message })) => message,
                Some(Err(status)) => return status,
                None => return Status::unavailable("the control plane ended the Sync stream"),
            };
            if let Err(status) = self
                .learn(message, taught, &asker, &upwards, &registration)
                .await
            {
                return status;
            }
        }
    }

    /// Takes in one message; an error ends the stream.
    async fn learn(
        &self,
        message: Option<Down>,
        taught: &mut Option<SyncedSnapshot>,
        asker: &ScoreClient,
        upwards: &mpsc::Sender<v1::FromDataPlane>,
        registration: &StreamRegistration,
    ) -> Result<(), Status> {
        let next = match (message, taught.as_ref()) {
            (Some(Down::Load(v1::LoadUpdate { loads: rows })), Some(_)) => {
                return self
                    .tell(ReplicaEvent::Loads {
                        from: self.place.address,
                        rows,
                    })
                    .await;
            }
            (Some(Down::Snapshot(wire)), _) => whole(wire),
            (Some(Down::Delta(wire)), Some(taught)) => changed(wire, taught),
            // Load before structure says nothing; a kind of message that this release does not know is skipped.
            (Some(Down::Load(_)) | None, _) => return Ok(()),
            (Some(Down::Delta(_)), None) => {
                return Err(Status::failed_precondition(
                    "a delta came before a snapshot",
                ));
            }
        };
        match next {
            Ok(next) => {
                let Snapshot { epoch, version, .. } = *next.snapshot;
                let news = ReplicaEvent::Snapshot {
                    from: self.place.address,
                    name: Arc::clone(&next.name),
                    snapshot: Arc::clone(&next.snapshot),
                    asker: asker.clone(),
                    upwards: upwards.clone(),
                };
                *taught = Some(next);
                self.tell(news).await?;
                registration.say(
                    upwards,
                    Up::Ack(v1::Ack {
                        epoch: epoch.0,
                        version: version.0,
                    }),
                );
                Ok(())
            }
            Err(UnusableSnapshot {
                epoch,
                version,
                reason,
            }) => {
                tracing::warn!(address = %self.place.address, version = version.0, reason, "a snapshot cannot be used; the last good one stays");
                self.tell(ReplicaEvent::Rejected).await?;
                registration.say(
                    upwards,
                    Up::Reject(v1::Reject {
                        epoch: epoch.0,
                        version: version.0,
                        reason,
                    }),
                );
                Ok(())
            }
        }
    }

    async fn tell(&self, news: ReplicaEvent) -> Result<(), Status> {
        self.news
            .send(news)
            .await
            .map_err(|_| Status::cancelled("the proxy is shutting down"))
    }
}

/// What a person needs to know of a failure: for a refused certificate it is the last of the causes.
fn reason_of(status: &Status) -> String {
    match status.source() {
        Some(cause) => format!("{}: {}", status.message(), causes(cause)),
        None => status.message().to_owned(),
    }
}

/// Which message cannot be used, and why.
struct UnusableSnapshot {
    epoch: Epoch,
    version: Version,
    reason: String,
}

fn whole(wire: v1::Snapshot) -> Result<SyncedSnapshot, UnusableSnapshot> {
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

fn changed(wire: v1::Delta, taught: &SyncedSnapshot) -> Result<SyncedSnapshot, UnusableSnapshot> {
    let (epoch, version) = (Epoch(wire.epoch), Version(wire.version));
    let unusable = |reason: String| UnusableSnapshot {
        epoch,
        version,
        reason,
    };
    let delta = Delta::try_from(wire).map_err(|invalid| unusable(invalid.to_string()))?;
    let snapshot = delta
        .apply(&taught.snapshot)
        .map_err(|wrong| unusable(wrong.to_string()))?;
    Ok(SyncedSnapshot {
        name: Arc::clone(&taught.name),
        snapshot: Arc::new(snapshot),
    })
}

/// Says that the replica is lost even when its task is aborted.
struct LostOnDrop {
    from: SocketAddr,
    news: mpsc::Sender<ReplicaEvent>,
}

impl Drop for LostOnDrop {
    fn drop(&mut self) {
        // If the queue is full the board hears it from the broken stream's askers: they fail at once.
        let _ = self.news.try_send(ReplicaEvent::Lost { from: self.from });
    }
}

/// The endpoint of a load row.
pub(super) const fn endpoint_of(row: &v1::EndpointLoad) -> EndpointId {
    EndpointId(row.endpoint)
}
