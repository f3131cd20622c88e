//! From a request to its answer: the built-in routes, and those that a plane added.

use super::{AdminQuery, AdminResponse};
use crate::metrics::Exposition;
use crate::readiness::{Liveness, Readiness};
use bytes::Bytes;
use http::header::ACCEPT;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The largest body of a `POST`.
const BODY_LIMIT: usize = 1024 * 1024;

/// How long a client may take to send a body, and a handler to answer.
const STEP_LIMIT: Duration = Duration::from_secs(10);

type PendingResponse = Pin<Box<dyn Future<Output = AdminResponse> + Send>>;
type Handler = Box<dyn Fn(AdminQuery, Option<Bytes>) -> PendingResponse + Send + Sync>;

/// Everything that the admin server answers.
pub(super) struct Routes {
    readiness: Readiness,
    liveness: Liveness,
    registry: Arc<Registry>,
    added: BTreeMap<&'static str, Handler>,
}

impl Routes {
    pub(super) fn new(readiness: Readiness, registry: Arc<Registry>) -> Self {
        Self {
            readiness,
            liveness: Liveness::default(),
            registry,
            added: BTreeMap::new(),
        }
    }

    pub(super) fn set_liveness(&mut self, liveness: Liveness) {
        self.liveness = liveness;
    }

    pub(super) fn add(
        &mut self,
        path: &'static str,
        handler: impl Fn(AdminQuery, Option<Bytes>) -> PendingResponse + Send + Sync + 'static,
    ) {
        self.added.insert(path, Box::new(handler));
    }

    pub(super) async fn answer<B>(&self, request: Request<B>) -> AdminResponse
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let built_in = match request.uri().path() {
            "/healthz" => self.health(),
            "/readyz" => self.ready(),
            "/metrics" => self.metrics(&request),
            "/" => self.index(),
            path => {
                return match self.added.get(path) {
                    Some(handler) => call(handler, request).await,
                    None => AdminResponse::error(
                        StatusCode::NOT_FOUND,
                        "not found: / lists the paths\n",
                    ),
                };
            }
        };
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            built_in
        } else {
            AdminResponse::method_not_allowed("GET, HEAD")
        }
    }

    fn health(&self) -> AdminResponse {
        match self.liveness.failure() {
            None => AdminResponse::text("ok\n"),
            Some(reason) => {
                AdminResponse::error(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n"))
            }
        }
    }

    fn ready(&self) -> AdminResponse {
        let mut lines = String::new();
        for missing in self.readiness.missing() {
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{}: {}", missing.gate, missing.reason);
        }
        let is_ready = lines.is_empty();
        for (name, text) in self.readiness.notes() {
            let _ = writeln!(lines, "{name}: {text}");
        }
        if is_ready {
            return AdminResponse::text(format!("ready\n{lines}"));
        }
        AdminResponse::error(StatusCode::SERVICE_UNAVAILABLE, lines)
    }

    fn metrics<B>(&self, request: &Request<B>) -> AdminResponse {
        let accept = request
            .headers()
            .get(ACCEPT)
            .and_then(|value| value.to_str().ok());
        let format = Exposition::accepted(accept);
        match format.encode(&self.registry) {
            Ok(text) => AdminResponse::new(StatusCode::OK, format.content_type(), text),
            Err(_) => AdminResponse::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "a metric collector failed\n",
            ),
        }
    }

    fn index(&self) -> AdminResponse {
        let built_in = ["/healthz", "/metrics", "/readyz"];
        let mut paths: Vec<&str> = built_in
            .into_iter()
            .chain(self.added.keys().copied())
            .collect();
        paths.sort_unstable();
        AdminResponse::text(paths.join("\n") + "\n")
    }
}

async fn call<B>(handler: &Handler, request: Request<B>) -> AdminResponse
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let query = AdminQuery::parse(request.uri().query().unwrap_or(""));
    let body = match *request.method() {
        Method::GET | Method::HEAD => None,
        Method::POST => match read(request.into_body()).await {
            Ok(body) => Some(body),
            Err(refusal) => return refusal,
        },
        _ => return AdminResponse::method_not_allowed("GET, HEAD, POST"),
    };
    tokio::time::timeout(STEP_LIMIT, handler(query, body))
        .await
        .unwrap_or_else(|_elapsed| {
            AdminResponse::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "the answer took longer than 10 s\n",
            )
        })
}

async fn read<B>(body: B) -> Result<Bytes, AdminResponse>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let whole = tokio::time::timeout(STEP_LIMIT, Limited::new(body, BODY_LIMIT).collect()).await;
    match whole {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(AdminResponse::error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body may have at most 1 MiB\n",
        )),
        Ok(Err(_)) => Err(AdminResponse::error(
            StatusCode::BAD_REQUEST,
            "the body broke off\n",
        )),
        Err(_elapsed) => Err(AdminResponse::error(
            StatusCode::REQUEST_TIMEOUT,
            "the body took longer than 10 s\n",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::response::AdminBody;
    use http::Response;
    use http_body_util::Full;

    fn routes() -> Routes {
        let mut routes = Routes::new(Readiness::default(), Arc::new(Registry::default()));
        routes.add("/debug/echo", |query, body| {
            let name = query.get("name").unwrap_or("none").to_owned();
            Box::pin(async move { AdminResponse::text(format!("{name} {body:?}")) })
        });
        routes.add("/debug/stuck", |_, _| Box::pin(std::future::pending()));
        routes
    }

    async fn send(
        routes: &Routes,
        method: Method,
        target: &str,
        body: impl Into<Bytes>,
    ) -> Response<AdminBody> {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .body(Full::new(body.into()));
        routes
            .answer(request.expect("a well-formed request"))
            .await
            .into_http()
    }

    async fn text(response: Response<AdminBody>) -> String {
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a body in memory")
            .to_bytes();
        String::from_utf8(body.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn readyz_names_what_is_missing() {
        let routes = routes();
        let gate = routes.readiness.gate("snapshot");
        let response = send(&routes, Method::GET, "/readyz", "").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(response).await, "snapshot: not yet\n");

        gate.open();
        assert_eq!(
            send(&routes, Method::GET, "/readyz", "").await.status(),
            StatusCode::OK
        );
    }

    #[tokio::test]
    async fn healthz_is_about_the_process_and_not_about_readiness() {
        let mut routes = routes();
        let liveness = Liveness::default();
        routes.set_liveness(liveness.clone());
        let _shut = routes.readiness.gate("snapshot");
        assert_eq!(
            send(&routes, Method::HEAD, "/healthz", "").await.status(),
            StatusCode::OK
        );

        liveness.fail("background task `sync` panicked");
        let response = send(&routes, Method::GET, "/healthz", "").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(response).await, "background task `sync` panicked\n");
    }

    #[tokio::test]
    async fn added_routes_get_their_query_and_body() {
        let routes = routes();
        let response = send(&routes, Method::GET, "/debug/echo?name=a%20b", "").await;
        assert_eq!(text(response).await, "a b None");
        let response = send(&routes, Method::POST, "/debug/echo", "{}").await;
        assert_eq!(text(response).await, "none Some(b\"{}\")");
    }

    #[tokio::test]
    async fn wrong_methods_and_paths_get_the_right_ones() {
        let routes = routes();
        let response = send(&routes, Method::POST, "/metrics", "").await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()[http::header::ALLOW], "GET, HEAD");
        let response = send(&routes, Method::DELETE, "/debug/echo", "").await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        let response = send(&routes, Method::GET, "/debug", "").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let index = send(&routes, Method::GET, "/", "").await;
        assert_eq!(
            text(index).await,
            "/debug/echo\n/debug/stuck\n/healthz\n/metrics\n/readyz\n"
        );
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        let response = send(
            &routes(),
            Method::POST,
            "/debug/echo",
            vec![b' '; BODY_LIMIT + 1],
        )
        .await;
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_hangs_is_given_up() {
        let response = send(&routes(), Method::GET, "/debug/stuck", "").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
