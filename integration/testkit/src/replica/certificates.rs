//! Certificates of listeners, as a scripted replica sends them.

use std::sync::Arc;

use futures::{Stream, stream};
use hermes_core::certificate::{CertificateChanges, CertificateStates};
use hermes_proto::v1::CertificatesUpdate;
use tokio::sync::watch;

/// What proxies are sent; `None`: the replica does not know the call, as an older release.
pub(super) type SentStates = Option<Arc<CertificateStates>>;

/// Sends certificates to the proxies of a replica.
#[derive(Clone, Debug)]
pub struct CertificateSender(pub(super) watch::Sender<SentStates>);

/// Everything first, and then what changes.
pub(super) fn updates(
    states: watch::Receiver<SentStates>,
) -> impl Stream<Item = CertificatesUpdate> {
    let nothing = Arc::new(CertificateStates::new());
    stream::unfold(
        (states, nothing, true),
        async |(mut states, sent, is_first)| {
            if !is_first {
                states.changed().await.ok()?;
            }
            let newest = states.borrow_and_update().clone()?;
            let update = (&CertificateChanges::between(&sent, &newest)).into();
            Some((update, (states, newest, false)))
        },
    )
}

impl CertificateSender {
    /// From now on proxies are sent these.
    pub fn send(&self, states: Arc<CertificateStates>) {
        self.0.send_replace(Some(states));
    }
}
