//! The certificates of listeners for one proxy: all of them first, then what changes.
//!
//! They have keys, so the call is refused on connections that are not secured, unless the operator
//! permits it.

use std::sync::Arc;

use hermes_core::certificate::{CertificateChanges, CertificateStates};
use hermes_proto::v1::{CertificatesRequest, CertificatesUpdate};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::GrpcState;
use crate::listener_certificates::NewestCertificates;

/// Messages that may wait for the connection.
const OUT: usize = 1;

/// Why a proxy without TLS gets no certificate.
const REFUSED: &str = "certificates of listeners are sent over mutual TLS only: give both planes --tls, or \
     permit other connections by --certificates-without-tls of the control plane";

/// What certificates are sent, and to which proxies.
#[derive(Clone, Debug)]
pub(crate) struct CertificateSource {
    /// The newest ones.
    pub(crate) newest: watch::Receiver<NewestCertificates>,
    /// Whether every connection is one that may carry keys.
    pub(crate) is_permitted: bool,
}

/// Begins to send certificates; the task belongs to the state.
pub(super) fn open(
    state: &GrpcState,
    request: CertificatesRequest,
) -> Result<ReceiverStream<Result<CertificatesUpdate, Status>>, Status> {
    let CertificatesRequest { proxy, name } = request;
    if !state.certificates.is_permitted {
        // It logs the reason, and asks again and again.
        tracing::debug!(proxy, name, "a proxy without TLS gets no certificates");
        return Err(Status::permission_denied(REFUSED));
    }
    let (out, messages) = mpsc::channel(OUT);
    let (newest, closing) = (state.certificates.newest.clone(), state.closing.clone());
    state.subscribers.spawn(async move {
        tracing::info!(proxy, name, "a proxy follows certificates");
        closing.run_until_cancelled_owned(send(newest, out)).await;
    });
    Ok(ReceiverStream::new(messages))
}

/// Sends what changes until the proxy is gone. A slow one skips versions.
async fn send(
    mut newest: watch::Receiver<NewestCertificates>,
    out: mpsc::Sender<Result<CertificatesUpdate, Status>>,
) {
    let mut sent: Option<Arc<CertificateStates>> = None;
    newest.mark_changed();
    loop {
        let changed = tokio::select! {
            () = out.closed() => return,
            changed = newest.changed() => changed,
        };
        let Ok(room) = out.reserve().await else {
            return;
        };
        if changed.is_err() {
            return;
        }
        let Some(states) = newest.borrow_and_update().clone() else {
            continue;
        };
        let nothing = CertificateStates::new();
        let changes = CertificateChanges::between(sent.as_deref().unwrap_or(&nothing), &states);
        // The first message says that there are no others, even if it is empty.
        if sent.is_none() || !changes.is_empty() {
            room.send(Ok((&changes).into()));
        }
        sent = Some(states);
    }
}

#[cfg(test)]
mod tests {
    use hermes_core::certificate::CertificateState;
    use hermes_proto::v1::ListenerCertificate;
    use tokio_stream::StreamExt;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    fn states(names: &[&str]) -> NewestCertificates {
        let absent = |name: &&str| (Arc::from(*name), CertificateState::Absent);
        Some(Arc::new(names.iter().map(absent).collect()))
    }

    fn names(update: CertificatesUpdate) -> (Vec<String>, Vec<String>) {
        let name = |one: ListenerCertificate| one.name;
        (update.set.into_iter().map(name).collect(), update.gone)
    }

    #[tokio::test(start_paused = true)]
    async fn everything_comes_first_and_then_what_changes() {
        let (publish, newest) = watch::channel(None);
        let (out, messages) = mpsc::channel(OUT);
        let _sending = AbortOnDropHandle::new(tokio::spawn(send(newest, out)));
        let mut messages = ReceiverStream::new(messages);
        let mut next = async || {
            let message = messages.next().await.expect("a message");
            names(message.expect("no error"))
        };
        let text = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        publish.send_replace(states(&[]));
        assert_eq!(next().await, (text(&[]), text(&[])), "there are none");
        publish.send_replace(states(&["ai/a", "ai/b"]));
        assert_eq!(next().await, (text(&["ai/a", "ai/b"]), text(&[])));
        publish.send_replace(states(&["ai/b", "ai/c"]));
        assert_eq!(next().await, (text(&["ai/c"]), text(&["ai/a"])));
    }
}
