//! Endpoints below a base path.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;
use hermes_engine_sim::http_server::{Handler, HttpServer, reply};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;

use super::Planes;
use crate::{
    client::{chat, eventually, send},
    tls::authority::Authority,
};

/// A gateway that answers below `/v1-proxy`, has no metrics, and records what it was asked for.
#[derive(Default)]
struct Gateway {
    paths: Mutex<BTreeSet<String>>,
}

impl Handler for Gateway {
    fn answer(
        self: Arc<Self>,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Response<Full<Bytes>>> {
        let path = request.uri().path().to_owned();
        let known = path.starts_with("/v1-proxy/") && !path.ends_with("/metrics");
        self.paths.lock().insert(path);
        let status = if known {
            StatusCode::OK
        } else {
            StatusCode::NOT_FOUND
        };
        Box::pin(async move { reply(status, r#"{"data": [{"id": "sim"}]}"#) })
    }
}

#[tokio::test]
async fn a_base_path_stands_before_the_paths_of_requests_and_probes() {
    let gateway = Arc::new(Gateway::default());
    let server = HttpServer::start(Arc::clone(&gateway))
        .await
        .expect("starts");
    let pool = format!("endpoints: ['{}/v1-proxy/']", server.url());
    let planes = Planes::start(&Authority::new(), &pool).await;
    assert_eq!(send(chat(&planes.url(), false, 1)).await.status(), 200);
    let wanted = [
        "/v1-proxy/health",
        "/v1-proxy/metrics",
        "/v1-proxy/v1/chat/completions",
        "/v1-proxy/v1/models",
    ];
    eventually("all of them were asked for", || async {
        let paths = gateway.paths.lock();
        wanted.iter().all(|path| paths.contains(*path))
    })
    .await;
    let paths = gateway.paths.lock().clone();
    assert!(
        paths.iter().all(|path| path.starts_with("/v1-proxy/")),
        "{paths:?}"
    );
}
