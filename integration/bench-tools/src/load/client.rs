//! A small HTTP/1.1 client that sends one call and watches its answer arrive.
//!
//! Invariants: a connection carries one call at a time and is driven by the task that waits for the
//! answer, so there is no second task a connection and dropping the future closes it; an answer
//! that did not end cleanly takes its connection with it; every call ends within its time limits.
//! It does not follow redirects, retry or speak TLS: what goes wrong is to be seen, not repaired.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::exchange::{self, Exchange, Outcome};

/// Where calls go.
#[derive(Clone, Debug)]
pub struct Target {
    authority: String,
    prefix: String,
}

/// A target that this client cannot send to.
#[derive(Debug, thiserror::Error)]
#[error("'{given}' is not a target; expected http://HOST[:PORT][/PREFIX] (TLS is not supported)")]
pub struct BadTarget {
    given: String,
}

impl Target {
    /// Reads `http://HOST[:PORT][/PREFIX]`. A trailing `/v1` is dropped, as calls name their whole
    /// path.
    ///
    /// # Errors
    /// [`BadTarget`] for anything else.
    pub fn parse(given: &str) -> Result<Self, BadTarget> {
        let bad = || BadTarget {
            given: given.to_owned(),
        };
        let uri: Uri = given.parse().map_err(|_| bad())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        if uri.scheme_str() != Some("http") || uri.query().is_some() {
            return Err(bad());
        }
        let prefix = uri.path().trim_end_matches('/');
        let prefix = prefix.strip_suffix("/v1").unwrap_or(prefix).to_owned();
        Ok(Self {
            authority: format!("{host}:{}", uri.port_u16().unwrap_or(80)),
            prefix,
        })
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// This path below the target's prefix.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

/// What to send: a JSON body for a path.
#[derive(Clone, Debug)]
pub struct Call {
    /// Such as `/v1/chat/completions`.
    pub path: &'static str,
    /// The request, whole.
    pub body: Bytes,
    /// Keep the answer's text in [`Exchange::text`].
    pub keep_text: bool,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To open a connection.
    pub connect: Duration,
    /// From sending the request to the last byte of the answer.
    pub answer: Duration,
}

impl Limits {
    /// `answer`, and the usual ten seconds to connect.
    #[must_use]
    pub fn answer_within(answer: Duration) -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer,
        }
    }
}

/// The client: a target and its idle connections.
#[derive(Debug)]
pub struct Client {
    target: Target,
    limits: Limits,
    /// The last one in is the first one out, so that a falling load lets the rest grow old. Never
    /// longer than the number of calls that were in flight at once.
    idle: Mutex<Vec<Connection>>,
}

type Driver = http1::Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// One connection and the future that moves its bytes.
#[derive(Debug)]
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Driver,
    idle_since: Instant,
}

/// Younger than the 5 s after which uvicorn, and so most engines, close an idle connection.
const MAX_IDLE: Duration = Duration::from_secs(4);

/// What servers' logs show.
const USER_AGENT: &str = "hermes-load";

/// Bytes of a page that are read at most, see [`Client::get`].
const MAX_PAGE: usize = 1 << 20;

impl Client {
    /// A client without connections.
    #[must_use]
    pub fn new(target: Target, limits: Limits) -> Self {
        Self {
            target,
            limits,
            idle: Mutex::default(),
        }
    }

    /// Sends `call`, which was meant to start at `intended`, and watches the answer to its end.
    pub async fn send(&self, call: Call, intended: Instant) -> Exchange {
        let mut exchange = Exchange::starting(intended);
        let connection = match self.check_out() {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        };
        let Ok(connection) = connection else {
            return exchange.ended(Outcome::Connect);
        };
        let answered = timeout(
            self.limits.answer,
            self.exchange(connection, call, &mut exchange),
        )
        .await;
        let outcome = answered.unwrap_or(Outcome::TimedOut);
        exchange.ended(outcome)
    }

    /// What stands at `path`, if it can be had within the limits; on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Option<Bytes> {
        self.page(
            self.to(Request::get(self.target.path(path)))
                .body(Full::default())
                .ok()?,
        )
        .await
    }

    /// What `path` answers to this JSON, likewise.
    pub(crate) async fn post(&self, path: &str, body: Bytes) -> Option<Bytes> {
        let request = self
            .to(Request::post(self.target.path(path)))
            .header(header::CONTENT_TYPE, "application/json");
        self.page(request.body(Full::new(body)).ok()?).await
    }

    async fn page(&self, request: Request<Full<Bytes>>) -> Option<Bytes> {
        let Connection {
            mut sender,
            mut driver,
            ..
        } = self.connect().await.ok()?;
        let answer = async {
            sender.ready().await.ok()?;
            let response = sender
                .send_request(request)
                .await
                .ok()
                .filter(|response| response.status().is_success())?;
            Limited::new(response.into_body(), MAX_PAGE)
                .collect()
                .await
                .ok()
        };
        let (page, _open) = timeout(self.limits.answer, driven(answer, &mut driver))
            .await
            .ok()?;
        Some(page?.to_bytes())
    }

    fn check_out(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        while let Some(connection) = idle.pop() {
            if now.duration_since(connection.idle_since) < MAX_IDLE {
                return Some(connection);
            }
        }
        None
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        let stream = timeout(
            self.limits.connect,
            TcpStream::connect(&self.target.authority),
        )
        .await??;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        Ok(Connection {
            sender,
            driver,
            idle_since: Instant::now(),
        })
    }

    async fn exchange(
        &self,
        connection: Connection,
        call: Call,
        exchange: &mut Exchange,
    ) -> Outcome {
        let connection = match connection.alive().await {
            Some(connection) => connection,
            None => match self.connect().await {
                Ok(connection) => connection,
                Err(_) => return Outcome::Connect,
            },
        };
        let Connection {
            mut sender,
            mut driver,
            ..
        } = connection;
        let keep_text = call.keep_text;
        let Ok(request) = self.request(call) else {
            return Outcome::Broken;
        };
        let answer = async {
            sender.ready().await?;
            let response: Response<Incoming> = sender.send_request(request).await?;
            Ok::<_, hyper::Error>(exchange::watch(response, keep_text, exchange).await)
        };
        let (outcome, open) = driven(answer, &mut driver).await;
        let outcome = outcome.unwrap_or(Outcome::Broken);
        if open && outcome.leaves_connection_usable() {
            self.idle.lock().push(Connection {
                sender,
                driver,
                idle_since: Instant::now(),
            });
        }
        outcome
    }

    fn request(&self, call: Call) -> Result<Request<Full<Bytes>>, http::Error> {
        self.to(Request::post(self.target.path(call.path)))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(call.body))
    }

    fn to(&self, request: http::request::Builder) -> http::request::Builder {
        request
            .header(header::HOST, &self.target.authority)
            .header(header::USER_AGENT, USER_AGENT)
    }
}

impl Connection {
    /// The connection, unless its peer has closed it meanwhile: an idle connection is not polled,
    /// so this is the moment to look.
    async fn alive(mut self) -> Option<Self> {
        let closed =
            poll_fn(|context| Poll::Ready(Pin::new(&mut self.driver).poll(context).is_ready()))
                .await;
        (!closed).then_some(self)
    }
}

/// Runs `answer` while moving the connection's bytes; returns whether the connection is still open
/// after it.
async fn driven<T>(answer: impl Future<Output = T>, driver: &mut Driver) -> (T, bool) {
    let mut answer = std::pin::pin!(answer);
    let mut open = true;
    poll_fn(|context| {
        loop {
            if let Poll::Ready(value) = answer.as_mut().poll(context) {
                return Poll::Ready((value, open));
            }
            if !open || Pin::new(&mut *driver).poll(context).is_pending() {
                return Poll::Pending;
            }
            // The peer has closed: what it sent before that is still to be read.
            open = false;
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_host_with_an_optional_port_and_prefix() {
        let read = |given: &str| {
            Target::parse(given)
                .map(|target| (target.authority, target.prefix))
                .ok()
        };
        let of = |authority: &str, prefix: &str| Some((authority.to_owned(), prefix.to_owned()));
        assert_eq!(read("http://router:8000"), of("router:8000", ""));
        assert_eq!(read("http://router/v1/"), of("router:80", ""));
        assert_eq!(
            read("http://[::1]:9/rest/v1beta1/v1"),
            of("[::1]:9", "/rest/v1beta1")
        );
    }

    #[test]
    fn a_target_that_cannot_be_reached_this_way_says_what_would_be_right() {
        for given in [
            "https://router",
            "router:8000",
            "",
            "http://",
            "http://router?x=1",
        ] {
            let error = Target::parse(given).expect_err(given).to_string();
            assert!(error.contains("http://HOST"), "{error}");
        }
    }
}
