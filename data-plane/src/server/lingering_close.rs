//! Closing a connection whose client is still sending a body that was refused.
//!
//! A socket that is closed with unread bytes is reset, and a reset discards the answer on its way
//! to the client, or before the client has read it: many clients send their whole body first. So
//! the answer is sent, the sending half is closed, and what the client sends is read and dropped
//! for a while (as nginx's `lingering_close` does).

use std::{io, time::Duration};

use hermes_runtime::shutdown::Drain;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};

/// How long a client's bytes are dropped in all, and how long it may send none.
const LINGER: Duration = Duration::from_secs(30);
const QUIET: Duration = Duration::from_secs(5);

/// The same in all, once the proxy drains.
const DRAINING: Duration = Duration::from_secs(2);

/// What is read at once, in bytes.
const READ: usize = 64 << 10;

/// Closes the connection when its client has closed its half, or after a while.
pub(super) async fn linger(mut stream: TcpStream, drain: &Drain) {
    // An error means that the client has left.
    if stream.shutdown().await.is_err() {
        return;
    }
    tokio::select! {
        // An error is an end, too.
        _ = discard(&stream) => {}
        () = async { drain.draining().await; sleep(DRAINING).await } => {}
    }
}

async fn discard(stream: &TcpStream) -> io::Result<()> {
    let end = Instant::now() + LINGER;
    let mut dropped = vec![0; READ];
    loop {
        timeout_at(end.min(Instant::now() + QUIET), stream.readable()).await??;
        match stream.try_read(&mut dropped) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if Instant::now() >= end {
            return Ok(());
        }
    }
}
