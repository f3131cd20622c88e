//! The admin port: accept, serve HTTP/1.1, stop. Every connection is bounded in time and owned by
//! the server.

use super::routes::Routes;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections at a time; more wait in the kernel. Probes and scrapers need a handful.
const CONNECTIONS: usize = 64;

/// How long a connection may be silent before or inside a request's headers.
const HEADER_LIMIT: Duration = Duration::from_secs(5);

/// How long a connection may live, so that a client that never reads its answer cannot hold one for
/// ever. One that carries a stream may live longer; the route bounds how many there are.
const LIFE_LIMIT: Duration = Duration::from_secs(120);

/// How long answers in flight may take once the server stops.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The pause after a failed accept, which is mostly a lack of file descriptors that needs time to
/// pass.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The buffer of a connection, in bytes, and with it the limit on the headers of a request.
const BUFFER: usize = 64 * 1024;

/// The admin server with its port taken.
pub struct BoundAdmin {
    listener: TcpListener,
    address: SocketAddr,
    routes: Arc<Routes>,
}

/// The address could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}, set by {flag}: {source}")]
pub struct BindError {
    /// What was asked for.
    pub address: SocketAddr,
    /// The setting that asked for it.
    pub flag: &'static str,
    /// Why the system refused.
    pub source: io::Error,
}

impl BoundAdmin {
    pub(super) fn new(listener: TcpListener, address: SocketAddr, routes: Arc<Routes>) -> Self {
        Self {
            listener,
            address,
            routes,
        }
    }

    /// The address with the port that was taken, when port 0 asked for any.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then lets answers in flight finish for a second. Dropping the future
    /// cuts everything off.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let Self {
            listener,
            address: _,
            routes,
        } = self;
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let closing = CancellationToken::new();
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stop => break,
                Some(_ended) = connections.join_next() => continue,
                accepted = accept(&listener, &slots) => accepted,
            };
            match accepted {
                Ok((stream, slot)) => {
                    connections.spawn(serve_connection(
                        stream,
                        Arc::clone(&routes),
                        closing.clone(),
                        slot,
                    ));
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin port could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        closing.cancel();
        let all_closed = async { while connections.join_next().await.is_some() {} };
        let _in_time = tokio::time::timeout(CLOSE_LIMIT, all_closed).await;
    }
}

/// Takes a slot before it accepts. Cancel safe: a slot without a connection goes back.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _client) = listener.accept().await?;
    Ok((stream, slot))
}

async fn serve_connection(
    stream: TcpStream,
    routes: Arc<Routes>,
    closing: CancellationToken,
    _slot: OwnedSemaphorePermit,
) {
    let streams = Arc::new(AtomicBool::new(false));
    let service = service_fn(|request: Request<Incoming>| {
        let (routes, streams) = (Arc::clone(&routes), Arc::clone(&streams));
        async move {
            let response = routes.answer(request).await;
            streams.fetch_or(response.is_stream(), Ordering::Relaxed);
            Ok::<_, Infallible>(response.into_http())
        }
    });
    let overdue = async {
        tokio::time::sleep(LIFE_LIMIT).await;
        if streams.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_LIMIT)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = overdue => return,
        () = closing.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // A client that leaves in the middle is no news on this port.
        tracing::debug!(%error, "an admin connection broke");
    }
}

#[cfg(test)]
mod tests {
    use super::LIFE_LIMIT;
    use crate::admin::{Admin, AdminResponse, BoundAdmin};
    use crate::readiness::Readiness;
    use crate::shutdown::Shutdown;
    use prometheus_client::registry::Registry;
    use std::net::SocketAddr;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;
    use tokio::time::Instant;

    const GET: &str = "GET /healthz HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n";

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    async fn bound() -> BoundAdmin {
        let admin = Admin::new(Readiness::default(), Registry::default());
        admin
            .bind(any_port(), "--admin")
            .await
            .expect("a free port")
    }

    /// Sends raw bytes and reads until the server closes.
    async fn exchange(address: SocketAddr, bytes: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(bytes.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("reads to the end");
        answer
    }

    #[tokio::test]
    async fn it_serves_on_the_port_it_names_and_stops_when_asked() {
        let (shutdown, trigger) = Shutdown::manual();
        let admin = bound().await;
        let address = admin.local_addr();
        let server = tokio::spawn(admin.serve(shutdown.drain().draining()));
        assert!(
            exchange(address, GET)
                .await
                .starts_with("HTTP/1.1 200 OK\r\n")
        );

        trigger.fire();
        shutdown.run(Duration::ZERO).await;
        server.await.expect("the server ends without panic");
        TcpStream::connect(address)
            .await
            .expect_err("the port is free again");
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_that_names_address_and_flag() {
        let first = bound().await;
        let second = Admin::new(Readiness::default(), Registry::default());
        let error = second
            .bind(first.local_addr(), "--admin")
            .await
            .map(|bound| bound.local_addr());
        let message = error.expect_err("the port is taken").to_string();
        assert!(
            message.contains(&first.local_addr().to_string()) && message.contains("--admin"),
            "{message}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_finishes_its_headers_is_cut_off() {
        let admin = bound().await;
        let address = admin.local_addr();
        let server = tokio::spawn(admin.serve(std::future::pending()));
        let start = Instant::now();
        let answer = exchange(address, "GET /healthz HTT").await;
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(start.elapsed() < LIFE_LIMIT, "{:?}", start.elapsed());
        server.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_outlives_other_answers_and_ends_with_its_reader() {
        let (written, reads) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
        let reads = parking_lot::Mutex::new(Some(reads));
        let admin = Admin::new(Readiness::default(), Registry::default()).route(
            "/debug/tail",
            move |_, _| {
                let reads = reads.lock().take().expect("asked once");
                async { AdminResponse::stream("text/plain", Tail(reads)) }
            },
        );
        let admin = admin
            .bind(any_port(), "--admin")
            .await
            .expect("a free port");
        let address = admin.local_addr();
        let server = tokio::spawn(admin.serve(std::future::pending()));
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream
            .write_all(b"GET /debug/tail HTTP/1.1\r\nhost: admin\r\n\r\n")
            .await
            .expect("writes");
        tokio::time::sleep(LIFE_LIMIT * 3).await;
        written
            .send("late".into())
            .await
            .expect("the response is read");
        let mut answer = String::new();
        while !answer.contains("late") {
            let mut bytes = [0; 256];
            let read = stream.read(&mut bytes).await.expect("reads");
            assert!(read > 0, "cut off after {answer:?}");
            answer += &String::from_utf8_lossy(&bytes[..read]);
        }
        drop(stream);
        written.closed().await;
        server.abort();
    }

    /// What is written to a channel, as a body.
    struct Tail(tokio::sync::mpsc::Receiver<bytes::Bytes>);

    impl hyper::body::Body for Tail {
        type Data = bytes::Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
            self.0
                .poll_recv(cx)
                .map(|bytes| bytes.map(|bytes| Ok(hyper::body::Frame::data(bytes))))
        }
    }

    #[tokio::test]
    async fn a_panicking_handler_costs_its_connection_and_nothing_else() {
        let admin = Admin::new(Readiness::default(), Registry::default())
            .route("/debug/boom", |_, _| async {
                panic!("an index out of bounds")
            });
        let admin = admin
            .bind(any_port(), "--admin")
            .await
            .expect("a free port");
        let address = admin.local_addr();
        let server = tokio::spawn(admin.serve(std::future::pending()));
        assert_eq!(
            exchange(address, "GET /debug/boom HTTP/1.1\r\nhost: admin\r\n\r\n").await,
            ""
        );
        assert!(
            exchange(address, GET)
                .await
                .starts_with("HTTP/1.1 200 OK\r\n")
        );
        server.abort();
    }

    #[tokio::test]
    async fn an_answer_in_flight_survives_the_stop() {
        static ENTERED: Notify = Notify::const_new();
        static RELEASED: Notify = Notify::const_new();
        let admin = Admin::new(Readiness::default(), Registry::default()).route(
            "/debug/slow",
            |_, _| async {
                ENTERED.notify_one();
                RELEASED.notified().await;
                AdminResponse::text("whole answer")
            },
        );
        let admin = admin
            .bind(any_port(), "--admin")
            .await
            .expect("a free port");
        let address = admin.local_addr();
        let (shutdown, trigger) = Shutdown::manual();
        let server = tokio::spawn(admin.serve(shutdown.drain().draining()));
        let client = tokio::spawn(exchange(
            address,
            "GET /debug/slow HTTP/1.1\r\nhost: admin\r\n\r\n",
        ));

        ENTERED.notified().await;
        trigger.fire();
        shutdown.run(Duration::ZERO).await;
        RELEASED.notify_one();
        assert!(client.await.expect("an answer").ends_with("whole answer"));
        server.await.expect("the server ends without panic");
    }
}
