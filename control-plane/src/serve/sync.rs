//! One subscriber: structure and load down, reports up.
//!
//! ```text
//!   watch<Snapshot> ─▶ what it lacks ─┐
//!   pools ─────────▶ rows that differ ┼─▶ one message at a time ─▶ proxy
//!   proxy ─▶ hello, acks, reports ─────┴─▶ pools
//! ```
//!
//! One task per subscriber. A message is made when there is room to send it, from what this
//! subscriber got last to what is newest: a slow reader skips versions, and costs one message of
//! memory. Structure is encoded once for all subscribers, and so are the rows of load that are the
//! same for all. Reports are read all the while.

mod load_cursor;
mod structure;
mod uplink;

use std::{sync::Arc, time::Duration};

use hermes_core::{ledger::ProxyId, snapshot::Snapshot};
use hermes_proto::v1::{
    self, FromControlPlane, FromDataPlane, from_control_plane, from_data_plane,
};
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use self::{load_cursor::LoadCursor, structure::StructureCursor, uplink::ReportReader};
use super::{GrpcState, proxies::ProxyConnection};
use crate::{
    metrics::{ControlPlaneMetrics, MessageKind},
    pools::PoolDirectory,
};

/// How long a subscriber may take to say who it is.
const HELLO: Duration = Duration::from_secs(5);

/// Shortest time between two load updates.
const LOAD_INTERVAL: Duration = Duration::from_millis(100);

/// Messages that may wait for the connection.
const OUT: usize = 1;

type Out = mpsc::Sender<Result<FromControlPlane, Status>>;

/// A proxy that said hello.
pub(super) struct Subscriber {
    proxy: ProxyId,
    structure: StructureCursor,
    loads: LoadCursor,
    /// When the next load update may go out.
    load_due: Instant,
    uplink: ReportReader,
    pools: Arc<PoolDirectory>,
    metrics: ControlPlaneMetrics,
    _present: ProxyConnection,
}

// === Subscriber ===

impl Subscriber {
    /// Begins a subscription; its task belongs to the state.
    pub(super) fn open(
        state: GrpcState,
        inbound: Streaming<FromDataPlane>,
    ) -> ReceiverStream<Result<FromControlPlane, Status>> {
        let (out, messages) = mpsc::channel(OUT);
        state.subscribers.clone().spawn(async move {
            let closing = state.closing.clone();
            closing
                .run_until_cancelled_owned(welcome(state, inbound, out))
                .await;
        });
        ReceiverStream::new(messages)
    }

    fn new(state: &GrpcState, hello: &v1::Hello) -> Self {
        let proxy = ProxyId(hello.proxy);
        Self {
            proxy,
            structure: StructureCursor::new(Arc::clone(&state.encoder)),
            loads: LoadCursor::new(proxy),
            load_due: Instant::now(),
            uplink: ReportReader::new(proxy, Arc::clone(&state.pools), state.metrics.clone()),
            pools: Arc::clone(&state.pools),
            metrics: state.metrics.clone(),
            _present: state.proxies.enter(proxy),
        }
    }

    async fn run(
        mut self,
        mut inbound: Streaming<FromDataPlane>,
        out: Out,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> Result<(), Status> {
        snapshots.mark_changed();
        loop {
            let structure = self.structure.is_due();
            let load = self.structure.is_current() && self.loads.is_wanted();
            tokio::select! {
                () = out.closed() => return Ok(()),
                message = inbound.message() => match message? {
                    Some(message) => self.receive(message),
                    None => return Ok(()),
                },
                newest = snapshots.changed() => {
                    if newest.is_err() {
                        return Ok(());
                    }
                    self.structure.set_newest(Arc::clone(&snapshots.borrow_and_update()));
                }
                Ok(room) = out.reserve(), if structure => {
                    if let Some(message) = self.next_structure() {
                        room.send(Ok(message));
                    }
                }
                Ok(room) = room_at(&out, self.load_due), if load => {
                    if let Some(message) = self.next_load() {
                        room.send(Ok(message));
                    }
                }
            }
        }
    }

    fn next_structure(&mut self) -> Option<FromControlPlane> {
        let message = self.structure.next()?;
        let kind = match &message {
            from_control_plane::Message::Snapshot(_) => {
                // All rows follow a whole snapshot, and at once.
                self.loads.clear();
                self.load_due = Instant::now();
                MessageKind::Snapshot
            }
            _ => MessageKind::Delta,
        };
        Some(self.outgoing(kind, message))
    }

    fn next_load(&mut self) -> Option<FromControlPlane> {
        self.load_due = Instant::now() + LOAD_INTERVAL;
        let update = self.loads.next(self.structure.sent()?, &self.pools)?;
        Some(self.outgoing(MessageKind::Load, from_control_plane::Message::Load(update)))
    }

    fn outgoing(
        &self,
        kind: MessageKind,
        message: from_control_plane::Message,
    ) -> FromControlPlane {
        self.metrics.streams.messages_sent[kind].inc();
        FromControlPlane {
            message: Some(message),
        }
    }

    fn receive(&mut self, message: FromDataPlane) {
        match message.message {
            Some(from_data_plane::Message::Reports(reports)) => self.uplink.reports(reports),
            Some(from_data_plane::Message::Open(open)) => self.uplink.open(open),
            Some(from_data_plane::Message::Ack(v1::Ack { epoch: _, version })) => {
                tracing::debug!(proxy = self.proxy.0, version, "snapshot in use");
            }
            Some(from_data_plane::Message::Reject(reject)) => {
                self.metrics.streams.rejected_snapshots.inc();
                self.structure.reject(&reject, self.proxy);
            }
            Some(from_data_plane::Message::History(history)) => self.uplink.history(history),
            Some(from_data_plane::Message::LoadInterest(v1::LoadInterest { wanted })) => {
                self.loads.set_wanted(wanted);
                self.load_due = Instant::now();
            }
            Some(from_data_plane::Message::Hello(_)) | None => {
                self.uplink.odd("a message that is not understood here");
            }
        }
    }
}

/// Waits for the hello, and then serves the subscriber to its end. What the proxy did wrong is its
/// answer.
async fn welcome(state: GrpcState, mut inbound: Streaming<FromDataPlane>, out: Out) {
    let hello = match hello(&mut inbound).await {
        Ok(hello) => hello,
        Err(status) => {
            // The proxy may be gone already.
            let _gone = out.send_timeout(Err(status), HELLO).await;
            return;
        }
    };
    let v1::Hello {
        proxy,
        name,
        release,
    } = &hello;
    tracing::info!(proxy, name, release, "proxy subscribed");
    state.metrics.streams.subscribers.inc();
    let _gauge = SubscriberGuard(&state.metrics);
    let ended = Subscriber::new(&state, &hello)
        .run(inbound, out, state.snapshots.clone())
        .await;
    match ended {
        Ok(()) => tracing::info!(proxy, name, "proxy unsubscribed"),
        Err(status) => tracing::info!(proxy, name, code = ?status.code(), "proxy lost"),
    }
}

async fn hello(inbound: &mut Streaming<FromDataPlane>) -> Result<v1::Hello, Status> {
    let first = time::timeout(HELLO, inbound.message()).await;
    match first.map_err(|_elapsed| Status::deadline_exceeded("no hello within 5 s"))?? {
        Some(FromDataPlane {
            message: Some(from_data_plane::Message::Hello(hello)),
        }) => Ok(hello),
        Some(_) => Err(Status::failed_precondition(
            "the first message must be hello",
        )),
        None => Err(Status::failed_precondition(
            "the stream ended before its hello",
        )),
    }
}

/// Room in the channel, not before `due`.
async fn room_at(
    out: &Out,
    due: Instant,
) -> Result<mpsc::Permit<'_, Result<FromControlPlane, Status>>, mpsc::error::SendError<()>> {
    time::sleep_until(due).await;
    out.reserve().await
}

/// Counts a subscriber down however its task ends.
struct SubscriberGuard<'a>(&'a ControlPlaneMetrics);

impl Drop for SubscriberGuard<'_> {
    fn drop(&mut self) {
        self.0.streams.subscribers.dec();
    }
}
