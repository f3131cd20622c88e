//! The stream of a publisher that dialed, on its way from its connection to the endpoint that it
//! speaks for.

use std::{net::IpAddr, sync::Arc, time::Duration};

use hermes_core::{address::ServerHost, snapshot::EndpointId};
use smallvec::SmallVec;
use tokio::{
    net::lookup_host,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    FollowedEndpoint, KvEvents,
    claim::{ClaimFit, PublisherClaim},
    settings::DialSource,
    zmtp::Message,
};

/// How long a publisher may be away. After that it is looked for where publishers that bind are.
pub(super) const GRACE: Duration = Duration::from_secs(60);

/// Messages that may wait for their endpoint; then the connection is not read.
pub(super) const QUEUE: usize = 16;

/// How long the addresses of an endpoint's name may take.
const RESOLVE: Duration = Duration::from_secs(2);

/// A stream that is offered to the endpoint that it is about.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: ArrivedStream,
    /// Gets a value when the stream is followed; dropped when it is refused.
    pub(super) taken: oneshot::Sender<()>,
}

/// What one connection of a publisher brings.
#[derive(Debug)]
pub(super) struct ArrivedStream {
    /// The publisher's data-parallel rank, as its messages have it.
    pub(super) rank: u32,
    /// Where the connection comes from.
    pub(super) publisher: Arc<str>,
    /// The message by which it is known.
    pub(super) first: Message,
    /// Those that follow. It is closed when the connection ends.
    pub(super) rest: mpsc::Receiver<Message>,
}

// === KvEvents ===

impl KvEvents {
    /// The endpoints that a publisher with this topic may speak for.
    pub(super) fn fitting(
        &self,
        claim: &PublisherClaim<'_>,
        topic: &[u8],
    ) -> SmallVec<[(EndpointId, ClaimFit); 2]> {
        if !topic.starts_with(self.config.topic.as_bytes()) {
            return SmallVec::new();
        }
        let following = self.following.lock();
        let members = following.members.values();
        members
            .filter_map(|FollowedEndpoint { publisher, .. }| {
                Some((publisher.endpoint, claim.fit(publisher)?))
            })
            .collect()
    }

    /// Whether a publisher at `peer` may speak for this endpoint.
    pub(super) async fn is_from(&self, endpoint: EndpointId, peer: IpAddr) -> bool {
        if self.config.dial_from == DialSource::Anywhere {
            return true;
        }
        let host = {
            let following = self.following.lock();
            let known = following.members.get(&endpoint);
            known.map(|known| known.publisher.address.host().clone())
        };
        match host {
            None => false,
            Some(ServerHost::Ip(ip)) => ip == peer.to_canonical(),
            Some(ServerHost::Name(name)) => {
                let found = timeout(RESOLVE, lookup_host((name.as_str(), 0))).await;
                let Ok(Ok(mut addresses)) = found else {
                    return false;
                };
                addresses.any(|address| address.ip().to_canonical() == peer.to_canonical())
            }
        }
    }

    /// Gives the stream of a publisher that dialed to its endpoint, if that can take one now.
    pub(super) fn receive(&self, endpoint: EndpointId, arrival: Arrival) -> bool {
        let following = self.following.lock();
        let known = following.members.get(&endpoint);
        known.is_some_and(|known| known.arrivals.try_send(arrival).is_ok())
    }
}
