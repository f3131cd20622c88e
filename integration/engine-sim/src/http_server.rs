//! A small HTTP server, mostly on an ephemeral port of the loopback, for fakes and simulations of
//! other servers.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// Largest body in bytes.
const MAX_BODY: usize = 4 << 20;

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

/// What a server answers, and whether it takes connections at all.
pub trait Handler: Send + Sync + 'static {
    /// The answer to a request whose body is complete.
    fn answer(
        self: Arc<Self>,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Response<Full<Bytes>>>;

    /// Whether a new connection is served; if not, it is closed.
    fn is_open(&self) -> bool {
        true
    }
}

impl HttpServer {
    /// Starts a server that answers as `handler` does.
    pub async fn start(handler: Arc<impl Handler>) -> std::io::Result<Self> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), handler).await
    }

    /// The same, at this address.
    pub async fn start_at(
        address: SocketAddr,
        handler: Arc<impl Handler>,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, handler)));
        Ok(Self {
            address,
            _accepting: accepting,
        })
    }

    /// Its base URL, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn accept(listener: TcpListener, handler: Arc<impl Handler>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if handler.is_open() {
            connections.spawn(serve(stream, Arc::clone(&handler)));
        }
    }
}

async fn serve(stream: TcpStream, handler: Arc<impl Handler>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = Arc::clone(&handler);
        async move {
            let (head, body) = request.into_parts();
            let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
                return Ok::<_, Infallible>(reply(StatusCode::PAYLOAD_TOO_LARGE, ""));
            };
            Ok(handler
                .answer(Request::from_parts(head, body.to_bytes()))
                .await)
        }
    });
    // A client that goes away is no failure of the server.
    let _gone = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// An answer in JSON.
pub fn reply(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    typed(
        status,
        "application/json",
        Bytes::copy_from_slice(body.as_bytes()),
    )
}

/// An answer of this type.
pub fn typed(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
