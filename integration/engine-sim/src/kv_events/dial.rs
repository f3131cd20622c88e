//! A PUB socket that connects to its subscriber, as one of vLLM whose endpoint has no wildcard.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;

use super::publisher::Publisher;
use super::serve::{Role, connection};

/// The pause before it connects again; that of libzmq.
const AGAIN: Duration = Duration::from_millis(100);

/// Connects to `subscriber`, a `host:port`, for ever.
pub(crate) async fn dial(subscriber: String, publisher: Arc<Publisher>) {
    loop {
        if let Err(error) = publish(&subscriber, &publisher).await {
            tracing::trace!(%error, "the simulated publisher lost its subscriber");
        }
        sleep(AGAIN).await;
    }
}

async fn publish(subscriber: &str, publisher: &Publisher) -> io::Result<()> {
    let stream = TcpStream::connect(subscriber).await?;
    connection(stream, publisher, Role::Publish).await
}
