//! The listening socket, which can be shut and opened again on the same port.
//!
//! The port is reserved by a socket that is bound and never listens, so that while the port is shut
//! a client is refused at once and no other process can take the port. A port that is in use makes
//! `reserve` fail.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

#[derive(Debug)]
pub(crate) struct Port {
    addr: SocketAddr,
    /// Keeps the port; never listens.
    _reservation: Socket,
    listener: Mutex<Option<Arc<TcpListener>>>,
    changed: Notify,
    runtime: Handle,
}

impl Port {
    /// Takes the port, without listening yet. Call it inside a Tokio runtime.
    pub(crate) fn reserve(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        // Only after the bind: before it, two engines with one fixed port would silently share it.
        socket.set_reuse_port(true)?;
        let addr = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the bound address is not an IP address"))?;
        Ok(Self {
            addr,
            _reservation: socket,
            listener: Mutex::new(None),
            changed: Notify::new(),
            runtime: Handle::current(),
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Starts to listen; a port that is open stays so.
    pub(crate) fn open(&self) -> io::Result<()> {
        let mut listener = self.listener.lock();
        if listener.is_some() {
            return Ok(());
        }
        let socket = Socket::new(Domain::for_address(self.addr), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&self.addr.into())?;
        socket.listen(BACKLOG)?;
        let _runtime = self.runtime.enter();
        *listener = Some(Arc::new(TcpListener::from_std(socket.into())?));
        drop(listener);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Refuses connections from now on, those in the backlog included.
    pub(crate) fn shut(&self) {
        if let Some(listener) = self.listener.lock().take() {
            // The accept loop still holds the socket for a moment; this takes effect at once.
            if let Err(error) = SockRef::from(&*listener).shutdown(Shutdown::Both) {
                tracing::debug!(%error, "could not shut down the listening socket");
            }
        }
        self.changed.notify_waiters();
    }

    /// The next connection; waits while the port is shut.
    pub(crate) async fn accept(&self) -> io::Result<TcpStream> {
        loop {
            let changed = self.changed.notified();
            let listener = self.listener.lock().clone();
            let Some(listener) = listener else {
                changed.await;
                continue;
            };
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => return Ok(stream),
                    Err(_) if self.listener.lock().is_none() => {}
                    Err(error) => return Err(error),
                },
                () = changed => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn a_shut_door_refuses_and_an_opened_one_accepts_on_the_same_port() {
        let port = Port::reserve((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let refused = TcpStream::connect(port.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        port.open().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(port.addr()), port.accept());
        assert_eq!(
            client.unwrap().local_addr().unwrap(),
            server.unwrap().peer_addr().unwrap()
        );
        port.shut();
        let refused = TcpStream::connect(port.addr()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        port.open().unwrap();
        TcpStream::connect(port.addr()).await.unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error() {
        let first = Port::reserve((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        first.open().unwrap();
        let error = Port::reserve(first.addr()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
