//! Follows a rank whose publisher dials: takes in what its connections bring, one after the other.

use tokio::{sync::mpsc, time::timeout};

use super::{
    super::{
        arrival::{Arrival, ArrivedStream, GRACE},
        live_peer::StreamLoss,
        metrics::StreamFailure,
        source::{PublisherAddress, PublisherPorts},
    },
    Stream,
};

impl Stream {
    /// Follows the connections that the publisher makes, until none is there for [`GRACE`].
    pub(in super::super) async fn receive(
        mut self,
        ports: &PublisherPorts,
        mut arrivals: mpsc::Receiver<Arrival>,
    ) {
        while let Ok(Some(arrival)) = timeout(GRACE, arrivals.recv()).await {
            let Arrival { stream, taken, .. } = arrival;
            if taken.send(()).is_ok() {
                let lost = self.connection(stream, ports).await;
                self.ends(lost);
            }
        }
    }

    /// One connection, until it breaks.
    async fn connection(&mut self, stream: ArrivedStream, ports: &PublisherPorts) -> StreamLoss {
        let ArrivedStream {
            rank,
            publisher,
            first,
            mut rest,
        } = stream;
        self.status.now.lock().publisher = publisher.clone();
        self.named_rank = Some(rank);
        let place = PublisherAddress {
            publisher,
            replay: ports.replay(rank).await,
        };
        self.sequence.reconnected();
        self.catch_up(&place).await;
        self.begins(&place);
        self.arrives(first, &place).await;
        while let Some(message) = rest.recv().await {
            self.arrives(message, &place).await;
        }
        StreamLoss(
            StreamFailure::ConnectionBroken,
            "the publisher's connection ended, and it has not dialed again".to_owned(),
        )
    }
}
