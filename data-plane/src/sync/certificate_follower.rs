//! Following the certificates of listeners: a stream from one replica at a time, while a listener
//! names any that is sent.
//!
//! ```text
//!   ports of listeners ──wanted──▶ follower ◀──messages── one of the replicas
//!            ▲                        │
//!            └── SentCertificates ◀───┘
//! ```
//!
//! The stream has a connection of its own: it carries keys, and neither delays snapshots nor ends
//! with them. When it breaks, the next replica is asked, and what was sent stays.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hermes_core::{backoff::Backoff, certificate::CertificateChanges};
use hermes_proto::v1::{CertificatesRequest, router_client::RouterClient};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tonic::{Response, Status};

use super::{
    dial::{Dialer, ReplicaAddress},
    replica::reason_of,
    sent_certificates::SentCertificates,
};
use crate::link::identity::ProxyIdentity;

/// Timeout of opening the stream.
const OPEN: Duration = Duration::from_secs(5);

/// The first pause between attempts, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What the ports of listeners and the follower share. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct CertificateExchange {
    /// Whether a listener names a certificate that is sent.
    wanted: Arc<watch::Sender<bool>>,
    sent: Arc<watch::Sender<Arc<SentCertificates>>>,
}

/// Follows the certificates.
pub(super) struct CertificateFollower {
    pub(super) addresses: watch::Receiver<Vec<ReplicaAddress>>,
    pub(super) dialer: Dialer,
    pub(super) identity: ProxyIdentity,
    pub(super) exchange: CertificateExchange,
}

/// Resolves when no listener names a certificate that is sent.
async fn is_unwanted(wanted: &mut watch::Receiver<bool>) {
    drop(wanted.wait_for(|wanted| !*wanted).await);
}

// === CertificateExchange ===

impl CertificateExchange {
    /// From now on certificates are followed, or not; what was sent is forgotten then.
    pub(crate) fn want(&self, is_wanted: bool) {
        self.wanted.send_if_modified(|wanted| {
            let before = std::mem::replace(wanted, is_wanted);
            before != is_wanted
        });
    }

    /// What was sent, now and whenever it changes.
    pub(crate) fn sent(&self) -> watch::Receiver<Arc<SentCertificates>> {
        self.sent.subscribe()
    }
}

// === CertificateFollower ===

impl CertificateFollower {
    /// Follows until it is dropped.
    pub(super) async fn run(mut self) {
        let mut wanted = self.exchange.wanted.subscribe();
        let mut backoff = Backoff::new(BACKOFF, self.identity.proxy);
        // Proxies begin with different replicas.
        let mut turn = usize::try_from(self.identity.proxy % 1_024).unwrap_or_default();
        let mut last_reason = String::new();
        loop {
            // The sender is ours: neither wait fails.
            drop(wanted.wait_for(|wanted| *wanted).await);
            let mut has_any = false;
            let reason = tokio::select! {
                status = self.stream(turn, &mut has_any) => reason_of(&status),
                () = is_unwanted(&mut wanted) => {
                    self.exchange.sent.send_replace(Arc::default());
                    continue;
                }
            };
            turn = turn.wrapping_add(1);
            if has_any {
                backoff.reset();
                last_reason.clear();
            }
            if reason != last_reason {
                tracing::warn!(
                    reason,
                    "no certificates of listeners are sent; the last ones stay, and it is tried again"
                );
                self.exchange
                    .sent
                    .send_modify(|sent| *sent = Arc::new(sent.silenced(&reason)));
                last_reason = reason;
            }
            sleep(backoff.next_pause()).await;
        }
    }

    /// Takes in what one replica sends, until the stream ends; returns the reason.
    async fn stream(&mut self, turn: usize, has_any: &mut bool) -> Status {
        let address = {
            let addresses = self.addresses.borrow();
            let count = addresses.len().max(1);
            addresses.get(turn % count).cloned()
        };
        let Some(address) = address else {
            return Status::unavailable("no control plane has an address");
        };
        let from: SocketAddr = address.socket;
        let mut down = match self.open(&address).await {
            Ok(down) => down,
            Err(status) => return status,
        };
        loop {
            let update = match down.message().await {
                Ok(Some(update)) => update,
                Ok(None) => return Status::unavailable("the control plane ended the stream"),
                Err(status) => return status,
            };
            let changes = match CertificateChanges::try_from(update) {
                Ok(changes) => changes,
                Err(invalid) => return Status::internal(format!("an invalid message: {invalid}")),
            };
            let is_first = !std::mem::replace(has_any, true);
            if is_first {
                tracing::info!(address = %from, "following certificates of listeners");
            }
            self.exchange
                .sent
                .send_modify(|sent| *sent = Arc::new(sent.with(changes, is_first)));
        }
    }

    async fn open(
        &self,
        address: &ReplicaAddress,
    ) -> Result<tonic::Streaming<hermes_proto::v1::CertificatesUpdate>, Status> {
        let channel = self.dialer.connect(address).await?;
        let mut client =
            RouterClient::new(channel).max_decoding_message_size(hermes_proto::MAX_MESSAGE_BYTES);
        let hello = self.identity.hello();
        let request = CertificatesRequest {
            proxy: hello.proxy,
            name: hello.name,
        };
        match timeout(OPEN, client.certificates(request)).await {
            Ok(opened) => opened.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(
                "the stream of certificates did not open",
            )),
        }
    }
}
