//! Pools whose endpoints another picker chooses, over real sockets: this router is its gateway.

mod answers;
mod door;
mod failures;
mod requests;

use std::sync::Arc;

use hermes_bench::fleet::{Fleet, Scene};
use hermes_engine_sim::{EngineHandle, RecordedRequest};
use hermes_proto::{
    Kind,
    ext_proc::{Metadata, processing_request::Request as Shown},
};
use hermes_testkit::scripted_picker::{PickerStep, PickerStreamRecord, ScriptedPicker};

use crate::client::metric;

/// The header by which the pickers of these tests are ordered what to choose.
const ORDER: &str = "test-epp-endpoint-selection";

/// The header and the key of the metadata with the destination.
const DESTINATION: &str = "x-gateway-destination-endpoint";

/// A fleet whose pool asks this picker.
async fn fleet(picker: &ScriptedPicker, engines: usize, keys: &str) -> Fleet {
    let scene = Scene {
        pool: format!(
            "  strategy: round-robin\n  askPicker: {{address: '{}', tls: false}}\n{keys}",
            picker.address
        ),
        ..Scene::of(engines, "round-robin")
    };
    scene.start().await.expect("starts")
}

/// What a picker of Go does when it has the whole request: it answers the head with the endpoints of
/// the order, and returns the body. It sets every header of the answer again, and names who served.
fn usual(record: &PickerStreamRecord, shown: &Shown) -> Vec<PickerStep> {
    match shown {
        Shown::RequestHeaders(_) | Shown::RequestBody(_) if record.is_asked => {
            let order = record.header(ORDER).unwrap_or_default();
            let mut steps = vec![PickerStep::head(&[(DESTINATION, order)])];
            if !record.body.is_empty() {
                steps.push(PickerStep::body(&record.body, true));
            }
            steps
        }
        Shown::ResponseHeaders(_) => {
            let served = served(record.answer_metadata.as_ref()).unwrap_or("none");
            let mut set = vec![("x-served", served)];
            let fields = record.answer_head.iter();
            set.extend(fields.map(|(key, value)| (key.as_str(), value.as_str())));
            vec![PickerStep::answer_head(&set)]
        }
        _ => Vec::new(),
    }
}

/// What the engine was asked by requests, without probes; the newest last.
fn asked(engine: &EngineHandle) -> Vec<Arc<RecordedRequest>> {
    let mut requests = engine.requests();
    requests.retain(|request| request.method == "POST");
    requests
}

/// Who served, as the metadata has it.
fn served(metadata: Option<&Metadata>) -> Option<&str> {
    let balancing = metadata?.filter_metadata.get("envoy.lb")?;
    let served = balancing
        .fields
        .get("x-gateway-destination-endpoint-served")?;
    match &served.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

/// Questions of the pool `chat` that ended so.
async fn questions(fleet: &Fleet, result: &str) -> f64 {
    let series =
        format!("hermes_asked_picker_questions_total{{pool=\"chat\",result=\"{result}\"}}");
    metric(&fleet.proxies[0].admin_url(), &series).await
}
