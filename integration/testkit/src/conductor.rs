//! A fake of Mooncake's Conductor: `POST /query`, `/register`, `/unregister` and `GET /services`,
//! as the one in Go (JSON) or the one in C++ (msgpack) has them, and it can misbehave.
//!
//! What is cached comes from a closure, so that simulated engines can have it answer what they
//! cache. It is as strict as the real ones: the one in C++ refuses fields that it does not know,
//! and a registration that does not say how the engine hashes.

mod wire;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use parking_lot::Mutex;
use serde_json::{Value, json};

use hermes_engine_sim::http_server::{Handler, HttpServer, typed};

/// A running fake on an ephemeral port of the loopback; it ends when dropped.
#[derive(Debug)]
pub struct ConductorServer {
    server: HttpServer,
    state: Arc<State>,
}

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// The one in Go: JSON, and a count for each tier.
    Json,
    /// The one in C++: msgpack, and boundaries.
    Msgpack,
}

/// One question, as the server understood it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The model that was asked about.
    pub model: String,
    /// Whose caches.
    pub tenant: String,
    /// Tokens in a block.
    pub block_size: u32,
    /// The prompt.
    pub token_ids: Vec<u32>,
    /// The adapter; empty for none.
    pub lora: String,
    /// The salt; empty for none.
    pub salt: String,
}

/// How far into a prompt each tier of an instance reaches, in tokens, faster tiers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The accelerator's memory.
    pub gpu: u32,
    /// The host's memory.
    pub cpu: u32,
    /// Disk.
    pub disk: u32,
}

/// How the server misbehaves, at `/query` alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    #[default]
    None,
    /// Takes questions and never answers.
    Hang,
    /// Answers this status.
    Status(u16),
    /// Answers 200 with something that is not in its encoding.
    Garbage,
    /// Says that every instance holds more than was asked about.
    FalseMatches,
    /// Closes every connection as soon as it is made, at every path.
    Refuse,
}

/// A publisher that was registered.
#[derive(Clone, Debug, PartialEq)]
pub struct Publisher {
    /// `tcp://host:port`
    pub endpoint: String,
    /// The body of the registration.
    pub body: Value,
}

type Know = dyn Fn(&Query) -> Vec<(String, Held)> + Send + Sync;

struct State {
    dialect: Dialect,
    know: Box<Know>,
    fault: Mutex<Fault>,
    queries: AtomicUsize,
    publishers: Mutex<BTreeMap<(String, u64), Publisher>>,
}

// === ConductorServer ===

impl ConductorServer {
    /// Starts a server that knows what `know` answers: instances, and what each holds.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start<K>(dialect: Dialect, know: K) -> std::io::Result<Self>
    where
        K: Fn(&Query) -> Vec<(String, Held)> + Send + Sync + 'static,
    {
        let state = Arc::new(State {
            dialect,
            know: Box::new(know),
            fault: Mutex::default(),
            queries: AtomicUsize::new(0),
            publishers: Mutex::default(),
        });
        let server = HttpServer::start(Arc::clone(&state)).await?;
        Ok(Self { server, state })
    }

    /// Its base URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Misbehaves like this from the next request on.
    pub fn set_fault(&self, fault: Fault) {
        *self.state.fault.lock() = fault;
    }

    /// How many questions came, answered or not.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.state.queries.load(Ordering::Relaxed)
    }

    /// Who is registered, by instance and rank.
    #[must_use]
    pub fn publishers(&self) -> BTreeMap<(String, u64), Publisher> {
        self.state.publishers.lock().clone()
    }

    /// Forgets who is registered, as a restart does.
    pub fn forget(&self) {
        self.state.publishers.lock().clear();
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("dialect", &self.dialect)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

// === State ===

impl Handler for State {
    fn answer(
        self: Arc<Self>,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Response<Full<Bytes>>> {
        async move { self.route(&request).await }.boxed()
    }

    fn is_open(&self) -> bool {
        *self.fault.lock() != Fault::Refuse
    }
}

impl State {
    async fn route(&self, request: &Request<Bytes>) -> Response<Full<Bytes>> {
        let (path, is_post) = (request.uri().path(), request.method() == Method::POST);
        let has_type = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind == self.dialect.content_type());
        match path {
            "/services" if !is_post => return self.services(),
            "/query" | "/register" | "/unregister" if is_post && has_type => {}
            "/query" | "/register" | "/unregister" => {
                return self.refuse("unsupported_content_type");
            }
            _ => return self.say(StatusCode::NOT_FOUND, &json!({"error": "not found"})),
        }
        let Some(body) = self.dialect.read(request.body()) else {
            return self.refuse("invalid_body");
        };
        let answer = match path {
            "/query" => self.query(&body).await,
            "/register" => self.register(body),
            _ => self.unregister(&body),
        };
        answer.unwrap_or_else(|reason| self.refuse(reason))
    }

    async fn query(&self, body: &Value) -> Result<Response<Full<Bytes>>, &'static str> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        let fault = *self.fault.lock();
        match fault {
            Fault::None | Fault::FalseMatches => {}
            Fault::Hang => std::future::pending().await,
            Fault::Status(status) => {
                let status =
                    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                return Ok(self.say(status, &json!({})));
            }
            Fault::Garbage | Fault::Refuse => {
                return Ok(typed(
                    StatusCode::OK,
                    self.dialect.content_type(),
                    Bytes::from_static(b"\xc1<html>"),
                ));
            }
        }
        let query = self.dialect.query(body)?;
        let mut held = (self.know)(&query);
        if fault == Fault::FalseMatches {
            let more = query.token_ids.len() as u32 + query.block_size;
            held.iter_mut().for_each(|(_, held)| {
                *held = Held {
                    gpu: more,
                    cpu: more,
                    disk: more,
                }
            });
        }
        Ok(self.say(StatusCode::OK, &self.dialect.rows(&query, &held)))
    }

    fn register(&self, body: Value) -> Result<Response<Full<Bytes>>, &'static str> {
        let row = self.dialect.registration(&body)?;
        let endpoint = body["endpoint"].as_str().unwrap_or_default().to_owned();
        let answer = json!({"status": "registered successfully", "instance_id": row.0});
        self.publishers
            .lock()
            .insert(row, Publisher { endpoint, body });
        Ok(self.say(StatusCode::OK, &answer))
    }

    fn unregister(&self, body: &Value) -> Result<Response<Full<Bytes>>, &'static str> {
        let row = self.dialect.row(body)?;
        if self.publishers.lock().remove(&row).is_none() {
            return Ok(self.say(
                StatusCode::NOT_FOUND,
                &json!({"error": "service not found"}),
            ));
        }
        Ok(self.say(
            StatusCode::OK,
            &json!({"status": "unregistered successfully"}),
        ))
    }

    fn services(&self) -> Response<Full<Bytes>> {
        let publishers = self.publishers.lock();
        let row = |((instance, rank), publisher): (&(String, u64), &Publisher)| json!({"Endpoint": publisher.endpoint, "TenantID": publisher.body["tenant_id"], "InstanceID": instance, "DPRank": rank});
        let rows: Vec<Value> = publishers.iter().map(row).collect();
        self.say(
            StatusCode::OK,
            &json!({"count": rows.len(), "services": rows}),
        )
    }

    fn refuse(&self, reason: &str) -> Response<Full<Bytes>> {
        self.say(
            StatusCode::BAD_REQUEST,
            &json!({"error": reason, "reason": reason}),
        )
    }

    fn say(&self, status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
        typed(
            status,
            self.dialect.content_type(),
            self.dialect.write(body),
        )
    }
}
