//! Closes a client's connection during a drain without losing a request.
//!
//! HTTP/1.1 has no frame that announces a close. A server that closes an idle connection can race
//! with a request that was just sent, and the client does not know whether it was processed. So a
//! draining proxy announces the close in the answer to the connection's next request
//! (`connection: close`), and closes without an announcement only after [`IDLE_GRACE`] of idleness.
//! HTTP/2 has GOAWAY, which is sent at once.

use std::time::Duration;

use hermes_runtime::shutdown::Drain;
use tokio::time::sleep;

use super::client_requests::{ClientRequests, ConnectionPhase};

/// How long an idle connection stays open after the drain began, or after its last answer.
const IDLE_GRACE: Duration = Duration::from_secs(2);

/// Resolves when the connection can be closed without losing a request, once its proxy drains.
pub(super) async fn may_close(requests: ClientRequests, drain: Drain) {
    drain.draining().await;
    requests.notify_changes();
    while !requests.is_multiplexed() {
        if requests.phase() == ConnectionPhase::Serving {
            requests.changed().await;
            continue;
        }
        tokio::select! {
            () = sleep(IDLE_GRACE) => return,
            () = requests.changed() => {}
        }
    }
}
