//! Endpoints at `https` addresses and below base paths: which certificates are accepted, by both
//! planes, and what a refused one costs.

mod base_path;
pub(crate) mod front;
mod refused;

use std::{fs, path::PathBuf};

use hermes_bench::fleet::{Plane, control_plane, instant, proxy};
use hermes_control_plane::app::{self as control, ConfigSource};
use hermes_data_plane::app as data;
use hermes_engine_sim::{Engine, EngineHandle};
use tempfile::TempDir;

use self::front::TlsFront;
use crate::{
    client::{chat, client, eventually, metric, send},
    tls::authority::Authority,
};

/// Both planes over one pool `chat`, and the folder of their configuration.
struct Planes {
    folder: TempDir,
    control: Plane<control::ControlPlane>,
    proxy: Plane<data::DataPlane>,
}

impl Planes {
    /// `pool` is what the pool has besides its name; `CA` in it is the path of a file that holds
    /// the certificate of `authority`.
    async fn start(authority: &Authority, pool: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let (config, ca) = (folder.path().join("hermes.yaml"), ca_in(&folder));
        fs::write(&ca, &authority.pem).expect("written");
        let pool = pool.replace("CA", &ca.display().to_string());
        fs::write(&config, format!("pools: [{{name: chat, {pool}}}]")).expect("written");
        let control = control_plane(ConfigSource::File(config)).await;
        let control = control.expect("the control plane starts");
        let proxy = proxy(&[control.bound.grpc]).await.expect("a proxy starts");
        eventually("the proxy is ready", || async {
            proxy.bound.readiness.is_ready()
        })
        .await;
        Self {
            folder,
            control,
            proxy,
        }
    }

    fn url(&self) -> String {
        self.proxy.url()
    }

    fn trust(&self, authority: &Authority) {
        fs::write(ca_in(&self.folder), &authority.pem).expect("written");
    }

    /// A metric of the proxy.
    async fn count(&self, series: &str) -> f64 {
        metric(&self.proxy.admin_url(), series).await
    }

    /// Whether the control plane has scraped the endpoint at `url`.
    async fn is_scraped(&self, url: &str) -> bool {
        let admin = self.control.bound.admin.expect("an admin port");
        let series = format!("hermes_scrape_last_success_timestamp_seconds{{endpoint=\"{url}\"}}");
        metric(&format!("http://{admin}"), &series).await > 0.0
    }
}

fn ca_in(folder: &TempDir) -> PathBuf {
    folder.path().join("ca.crt")
}

async fn engine() -> EngineHandle {
    Engine::start(instant()).await.expect("an engine starts")
}

#[tokio::test]
async fn an_engine_behind_tls_answers_streams_and_is_scraped() {
    let (engine, authority) = (engine().await, Authority::new());
    let front = TlsFront::start(&engine, &authority.local()).await;
    let url = front.url();
    let pool = format!("endpoints: ['{url}'], tls: {{caFile: CA}}");
    let planes = Planes::start(&authority, &pool).await;
    // One connection of a client stays with one worker, whose connections are its own.
    let client = client();
    for stream in [true, false, true, false] {
        let (_, chat) = chat(&planes.url(), stream, 4).build_split();
        let response = client.execute(chat.expect("a request")).await;
        let answer = response.expect("an answer").text().await;
        let answer = answer.expect("a whole answer");
        assert_eq!(answer.contains("[DONE]"), stream, "{answer}");
    }
    eventually("the engine is scraped", || planes.is_scraped(&url)).await;
    let opened = planes
        .count("hermes_endpoint_connections_opened_total")
        .await;
    assert_eq!(opened, 1.0, "the connection is used again");
}

#[tokio::test]
async fn a_configured_name_is_sent_and_verified_instead_of_the_address() {
    let (engine, authority) = (engine().await, Authority::new());
    let front = TlsFront::start(&engine, &authority.sign(&["engines.test"], 2090)).await;
    let url = front.url();
    let pool = format!("endpoints: ['{url}'], tls: {{caFile: CA, serverName: engines.test}}");
    let planes = Planes::start(&authority, &pool).await;
    assert_eq!(send(chat(&planes.url(), false, 4)).await.status(), 200);
    eventually("the engine is scraped", || planes.is_scraped(&url)).await;
    assert_eq!(front.names(), ["engines.test"], "by both planes");
}

#[tokio::test]
async fn a_name_is_resolved_and_verified() {
    let (engine, authority) = (engine().await, Authority::new());
    let front = TlsFront::start(&engine, &authority.sign(&["localhost"], 2090)).await;
    let url = front.url().replace("127.0.0.1", "localhost");
    let pool = format!("endpoints: ['{url}'], tls: {{caFile: CA}}");
    let planes = Planes::start(&authority, &pool).await;
    assert_eq!(send(chat(&planes.url(), false, 4)).await.status(), 200);
    assert_eq!(front.names(), ["localhost"]);
}

#[tokio::test]
async fn another_authority_takes_effect_for_new_connections() {
    let (engine, old, new) = (engine().await, Authority::new(), Authority::new());
    let front = TlsFront::start(&engine, &old.local()).await;
    let pool = format!("endpoints: ['{}'], tls: {{caFile: CA}}", front.url());
    let planes = Planes::start(&old, &pool).await;
    assert_eq!(send(chat(&planes.url(), false, 4)).await.status(), 200);
    front.show(&new.local());
    eventually("the new certificate is refused", || async {
        send(chat(&planes.url(), false, 4)).await.status() == 502
    })
    .await;
    planes.trust(&new);
    eventually("the new certificate is accepted", || async {
        send(chat(&planes.url(), false, 4)).await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn a_connection_in_use_ends_when_its_authority_is_no_longer_trusted() {
    let (engine, old, new) = (engine().await, Authority::new(), Authority::new());
    let front = TlsFront::start(&engine, &old.local()).await;
    let pool = format!("endpoints: ['{}'], tls: {{caFile: CA}}", front.url());
    let planes = Planes::start(&old, &pool).await;
    // One connection of a client stays with one worker, whose connection is never idle for long.
    let client = client();
    let status = || async {
        let (_, chat) = chat(&planes.url(), false, 1).build_split();
        let response = client.execute(chat.expect("a request")).await;
        response.expect("an answer").status()
    };
    assert_eq!(status().await, 200);
    planes.trust(&new);
    eventually("the endpoint is refused", || async {
        status().await == 502
    })
    .await;
}
