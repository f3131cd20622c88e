//! `docs/metrics.md` against the metrics of two planes that have done a bit of everything.

use std::collections::{BTreeMap, BTreeSet};

use hermes_bench::fleet::{Fleet, Scene, instant};
use hermes_engine_sim::kv_manager::KvManagerServer;
use hermes_engine_sim::{EngineConfig, Fault, KvEventsConfig};

use super::pages;
use crate::{
    client::{chat, client, eventually, metric, send},
    tls::authority::{Authority, Mounted},
};

/// A route, which has series of its own.
const ROUTED: &str = "
listeners: [{name: extra, address: '127.0.0.1:0'}]
routes: [{name: extra, listeners: [extra], rules: [{backends: [{pool: chat}]}]}]
";

/// A metric as documented, or as exposed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Metric {
    kind: String,
    /// `None` when no series was exposed to read them from.
    labels: Option<BTreeSet<String>>,
    help: String,
}

type Metrics = BTreeMap<String, Metric>;

#[tokio::test]
async fn the_metrics_page_lists_what_both_planes_expose() {
    let manager = KvManagerServer::start(|_question| Vec::new())
        .await
        .expect("starts");
    let fleet = busy_fleet(&manager).await;
    let control_plane = admin_of_control_plane(&fleet);
    let data_plane = fleet.proxies[0].admin_url();

    let page = pages::read("metrics");
    let mut complaints = Vec::new();
    for (title, admin) in [("Data plane", data_plane), ("Control plane", control_plane)] {
        let mut documented = table(&page, "Both planes");
        documented.extend(table(&page, title));
        let text = client()
            .get(format!("{admin}/metrics"))
            .send()
            .await
            .expect("metrics")
            .text()
            .await
            .expect("text");
        complaints.extend(compare(title, &documented, &exposed(&text)));
    }
    assert!(
        complaints.is_empty(),
        "correct docs/metrics.md:\n  {}",
        complaints.join("\n  ")
    );
}

/// Families show only once they have a series: a refusal, a choice, a lookup, a scrape that works
/// and one that fails.
async fn busy_fleet(manager: &KvManagerServer) -> Fleet {
    let authority = Authority::new();
    let certificates = Mounted::new(&[&authority], &authority.local());
    let pool = format!(
        "  strategy: kv-aware\n  kvManager: {{url: \"{}\"}}\n  kvEvents: {{}}\n  tokenizer: {{engine: true, timeout: 5s}}\n  metrics: {{interval: 100ms}}\n",
        manager.url()
    );
    let publishing = EngineConfig {
        kv_events: Some(KvEventsConfig::default()),
        ..instant()
    };
    let tls = Some(certificates.path());
    let scene = Scene {
        pool,
        tls,
        engines: vec![publishing; 2],
        top: ROUTED.to_owned(),
        ..Scene::of(0, "kv-aware")
    };
    let fleet = scene.start().await.expect("starts");
    let admin = admin_of_control_plane(&fleet);
    let scraped = "hermes_scrape_duration_seconds_count";
    eventually("an engine was scraped", || async {
        metric(&admin, scraped).await > 0.0
    })
    .await;
    fleet.engines[0]
        .faults()
        .set(Fault::MetricsStatus { code: 500 });
    let failed = "hermes_scrape_failures_total{target=\"metrics\",reason=\"status\"}";
    eventually("a scrape failed", || async {
        metric(&admin, failed).await > 0.0
    })
    .await;
    assert_eq!(send(chat(&fleet.url(), false, 2)).await.status(), 200);
    assert_eq!(
        send(client().post(format!("{}/nowhere", fleet.url())))
            .await
            .status(),
        404
    );
    let reported = "hermes_control_plane_reports_total{event=\"finished\"}";
    eventually("the end of a request was reported", || async {
        metric(&admin, reported).await > 0.0
    })
    .await;
    fleet
}

fn admin_of_control_plane(fleet: &Fleet) -> String {
    format!(
        "http://{}",
        fleet.control_planes[0]
            .bound
            .admin
            .expect("a fleet has admin ports")
    )
}

/// The rows of the first table below this heading: name, type, labels, meaning.
fn table(page: &str, heading: &str) -> Metrics {
    let below = page
        .lines()
        .skip_while(|line| line.strip_prefix("## ") != Some(heading))
        .skip(1);
    let section = below.take_while(|line| !line.starts_with("## "));
    section.filter_map(row).collect()
}

/// A row whose first cell is the name of a metric.
fn row(line: &str) -> Option<(String, Metric)> {
    let cells: Vec<&str> = line
        .trim()
        .trim_matches('|')
        .split('|')
        .map(str::trim)
        .collect();
    let [name, kind, labels, help] = cells[..] else {
        return None;
    };
    let name = name.strip_prefix('`')?.strip_suffix('`')?;
    let labels = labels
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    Some((
        name.to_owned(),
        Metric {
            kind: kind.to_owned(),
            labels: Some(labels),
            help: sentence(help),
        },
    ))
}

/// What a page of the Prometheus text format holds.
fn exposed(text: &str) -> Metrics {
    let mut metrics = Metrics::new();
    let (mut current, mut help) = (String::new(), "");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest
                .rsplit_once(' ')
                .expect("a type line has a name and a type");
            current = name.to_owned();
            metrics.insert(
                current.clone(),
                Metric {
                    kind: kind.to_owned(),
                    labels: None,
                    help: sentence(help),
                },
            );
        } else if let Some(metric) = metrics.get_mut(&current) {
            metric.labels = Some(labels(line));
        }
    }
    metrics
}

/// Registered metrics get a full stop from the library, those of collectors do not.
fn sentence(help: &str) -> String {
    format!("{}.", help.trim_end_matches('.'))
}

/// The label names of a sample, without the one that distinguishes buckets. Values hold no comma
/// here.
fn labels(sample: &str) -> BTreeSet<String> {
    let Some((_, rest)) = sample.split_once('{') else {
        return BTreeSet::new();
    };
    let inside = rest.rsplit_once('}').map_or("", |(inside, _)| inside);
    let names = inside
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, _)| name.to_owned());
    names.filter(|name| name != "le").collect()
}

fn compare(title: &str, documented: &Metrics, exposed: &Metrics) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, metric) in exposed {
        let right = match documented.get(name) {
            Some(known) => {
                let labels = metric
                    .labels
                    .as_ref()
                    .is_none_or(|labels| Some(labels) == known.labels.as_ref());
                labels && known.kind == metric.kind && known.help == metric.help
            }
            None => false,
        };
        if !right {
            complaints.push(format!(
                "under `{title}` the row must be: {}",
                metric.row(name)
            ));
        }
    }
    let gone = documented
        .keys()
        .filter(|name| !exposed.contains_key(*name));
    complaints.extend(gone.map(|name| {
        format!("`{title}`: {name} is not exposed (any more); drop it, or let this test touch it")
    }));
    complaints
}

impl Metric {
    fn row(&self, name: &str) -> String {
        let labels: Vec<String> = self
            .labels
            .iter()
            .flatten()
            .map(|label| format!("`{label}`"))
            .collect();
        format!(
            "| `{name}` | {} | {} | {} |",
            self.kind,
            labels.join(", "),
            self.help
        )
    }
}

#[test]
fn the_check_reports_missing_wrong_and_removed_rows() {
    let page = "## One\n\n| Name | Type | Labels | Meaning |\n|---|---|---|---|\n\
        | `a_total` | counter | `pool` | A. |\n| `gone` | gauge |  | G. |\n## Two\n| `b` | gauge | | B. |\n";
    let documented = table(page, "One");
    assert_eq!(documented.len(), 2);
    let text = "# HELP a_total A.\n# TYPE a_total counter\na_total{pool=\"x\"} 1\n# HELP b B.\n# TYPE b gauge\n\
        # HELP c C.\n# TYPE c histogram\nc_bucket{le=\"1.0\",pool=\"x\"} 0\n";
    let complaints = compare("One", &documented, &exposed(text));
    assert_eq!(complaints.len(), 3, "{complaints:?}");
    assert!(
        complaints[0].ends_with("| `b` | gauge |  | B. |")
            && complaints[1].contains("| `pool` | C. |")
    );
    assert!(complaints[2].contains("gone is not exposed"));
}
