//! The listener and its connections, owned by one task that ends with them.

use std::sync::Arc;

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::{JoinHandle, JoinSet},
};

use super::{Shared, serve::answer};

/// A running listener. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub(crate) struct Connections {
    /// Asks the task to close every connection, and to say so.
    drop_all: mpsc::Sender<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

// === Connections ===

impl Connections {
    pub(crate) fn accept(listener: TcpListener, shared: Arc<Shared>) -> Self {
        let (drop_all, requests) = mpsc::channel(1);
        let task = tokio::spawn(run(listener, shared, requests));
        Self { drop_all, task }
    }

    /// Closes every connection; all are closed when this returns.
    pub(crate) async fn drop_all(&self) {
        let (done, closed) = oneshot::channel();
        if self.drop_all.send(done).await.is_ok() {
            // An error means that the task ended, and with it every connection.
            let _ = closed.await;
        }
    }

    /// Closes the listener and every connection; all are closed when this returns.
    pub(crate) async fn stop(mut self) {
        self.drop_all().await;
        self.task.abort();
        let _cancelled = (&mut self.task).await;
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut requests: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // A connection that broke before it was accepted is the client's business.
                if let Ok((socket, _)) = accepted {
                    connections.spawn(serve(socket, Arc::clone(&shared)));
                }
            }
            Some(_ended) = connections.join_next() => {}
            Some(done) = requests.recv() => {
                connections.shutdown().await;
                let _ = done.send(());
            }
        }
    }
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    // Small events must not wait for more.
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new());
    // Clients that go away in the middle of a watch are ordinary here.
    let _ = server.serve_connection(TokioIo::new(socket), service).await;
}
