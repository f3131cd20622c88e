//! Options of TCP sockets, by which the kernel notices a peer whose host or network vanished.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// When a peer counts as vanished.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VanishedPeer {
    /// Silence after which it is probed.
    pub(crate) keep_alive: Duration,
    /// Pause between probes.
    pub(crate) probe: Duration,
    /// Probes without an answer.
    pub(crate) probes: u32,
    /// How long what is written may stay unacknowledged, of which probes of an idle connection say
    /// nothing: its host is gone, or its window closed. Systems other than Linux have no such
    /// option.
    pub(crate) unacknowledged: Duration,
}

impl VanishedPeer {
    /// Sets a connected socket up, without Nagle's delay.
    pub(crate) fn prepare(self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        let keep_alive = TcpKeepalive::new()
            .with_time(self.keep_alive)
            .with_interval(self.probe)
            .with_retries(self.probes);
        socket.set_tcp_keepalive(&keep_alive)?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(self.unacknowledged))?;
        #[cfg(not(target_os = "linux"))]
        let _ = self.unacknowledged;
        Ok(())
    }
}
