//! The routes that answer at once: models, health, tokens, metrics, and the simulator's own
//! `/sim/faults`, `/sim/held` and `/sim/pairs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::context::EngineContext;
use super::exposition::render;
use super::fields::{Fields, LIST, STRING, Text, require_json};
use super::page::{self, Page};
use super::pairs;
use super::prompt;
use super::question::Question;
use super::reply::{ApiError, Body, Broken, injected, json, raw_json, whole};
use super::route::Route;
use crate::clock::since_epoch;
use crate::faults::Fault;
use crate::journal::RecordedRequest;
use crate::model::tokenizer::{detokenize, tokenize};

#[derive(Serialize)]
struct Models<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: String,
    parent: Option<&'a str>,
    max_model_len: Option<usize>,
    permission: [Permission; 1],
}

#[derive(Serialize)]
struct Permission {
    id: String,
    object: &'static str,
    created: u64,
    allow_create_engine: bool,
    allow_sampling: bool,
    allow_logprobs: bool,
    allow_search_indices: bool,
    allow_view: bool,
    allow_fine_tuning: bool,
    organization: &'static str,
    group: (),
    is_blocking: bool,
}

#[derive(Serialize)]
struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

/// A fault as `POST /sim/faults` takes it: the fault's own fields, and how many requests it
/// strikes.
#[derive(Deserialize)]
struct FaultOrder {
    #[serde(flatten)]
    fault: Fault,
    requests: Option<u32>,
}

/// Answers a route that is neither inference nor metrics.
pub(crate) fn answer(
    context: &EngineContext,
    route: Route,
    request: &RecordedRequest,
) -> Response<Body> {
    let answered = match route {
        Route::Models => Ok(models(context)),
        Route::Health | Route::Ping => Ok(health(context)),
        Route::Version => Ok(version(context)),
        // vLLM counts here only with `--enable-server-load-tracking`.
        Route::Load => Ok(raw_json(StatusCode::OK, r#"{"server_load":0}"#)),
        Route::KvEventSources => Ok(kv_event_sources(context)),
        Route::ResetPrefixCache => Ok(reset_prefix_cache(context)),
        Route::Tokenize => tokenized(context, request),
        Route::Detokenize => detokenized(request),
        Route::CountTokens => count_tokens(context, request),
        Route::SimFaults => faults(context, request),
        Route::SimHeld => held(context, request),
        Route::SimPairs => Ok(pairs::state(context)),
        Route::ServerInfo => Ok(pairs::server_info(context)),
        Route::Run(_) | Route::Metrics => {
            Err(ApiError::with_status(StatusCode::INTERNAL_SERVER_ERROR))
        }
    };
    match answered {
        Ok(response) => response,
        Err(error) if route == Route::CountTokens => error.into_anthropic(),
        Err(error) => error.into_response(),
    }
}

/// Answers a scrape, or fails as ordered.
pub(crate) async fn metrics(context: &EngineContext) -> Result<Response<Body>, Broken> {
    let overrides = match context.faults.for_metrics() {
        Some(Fault::MetricsStatus { code }) => return Ok(injected(code, None)),
        Some(Fault::MetricsGarbage) => {
            return Ok(exposition(
                "\u{1}{{{ not an exposition\n# TYPE\nvllm:num_requests_waiting{ nan nan\n",
            ));
        }
        Some(Fault::MetricsHang) => std::future::pending().await,
        Some(Fault::MetricsValues { values }) => values,
        _ => BTreeMap::new(),
    };
    let now = since_epoch().as_secs_f64();
    let mut rank = 0..;
    let pages = context.ranks.read(|scheduler| {
        let rank = rank.next().unwrap_or(0);
        let overrides = overrides.clone();
        let page = Page::new(rank, &context.config.model, context.started, overrides);
        render(page, &context.config, scheduler, now)
    });
    let pairs = pairs::exposition(context, overrides);
    Ok(exposition(page::merge(pages) + &pairs))
}

fn exposition(text: impl Into<bytes::Bytes>) -> Response<Body> {
    whole(
        StatusCode::OK,
        Some("text/plain; version=1.0.0; charset=utf-8"),
        text,
    )
}

fn version(context: &EngineContext) -> Response<Body> {
    let version = serde_json::json!({ "version": context.config.version });
    json(StatusCode::OK, &version)
}

fn health(context: &EngineContext) -> Response<Body> {
    let status = if context.faults.for_health() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    whole(status, None, "")
}

fn models(context: &EngineContext) -> Response<Body> {
    let base = context.config.model.as_str();
    let adapters = context
        .config
        .loras
        .iter()
        .map(|name| model(context, name, Some(base)));
    let data = std::iter::once(model(context, base, None))
        .chain(adapters)
        .collect();
    json(
        StatusCode::OK,
        &Models {
            object: "list",
            data,
        },
    )
}

fn model<'a>(context: &EngineContext, id: &'a str, parent: Option<&'a str>) -> Model<'a> {
    let created = context.started as u64;
    let kind = if parent.is_some() { "loras" } else { "models" };
    let permission = Permission {
        id: format!(
            "modelperm-{:016x}",
            xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), created)
        ),
        object: "model_permission",
        created,
        allow_create_engine: false,
        allow_sampling: true,
        allow_logprobs: true,
        allow_search_indices: false,
        allow_view: true,
        allow_fine_tuning: false,
        organization: "*",
        group: (),
        is_blocking: false,
    };
    Model {
        id,
        object: "model",
        created,
        owned_by: "vllm",
        root: format!("/{kind}/{id}"),
        parent,
        max_model_len: parent.is_none().then(|| context.config.context()),
        permission: [permission],
    }
}

/// Where the only rank publishes, as vLLM says it since 0.32.
fn kv_event_sources(context: &EngineContext) -> Response<Body> {
    let Some((ports, config)) = context
        .events
        .as_ref()
        .zip(context.config.kv_events.as_ref())
    else {
        return json(StatusCode::OK, &serde_json::json!({}));
    };
    let endpoint = |port: u16| format!("tcp://*:{port}");
    let listens = ports
        .publish
        .as_ref()
        .map(|port| endpoint(port.addr().port()));
    let connects = config.connect.as_ref().map(|host| format!("tcp://{host}"));
    let source = serde_json::json!({
        "enable_kv_cache_events": true,
        "publisher": "zmq",
        "endpoint": listens.or(connects),
        "replay_endpoint": ports.replay.as_ref().map(|port| endpoint(port.addr().port())),
        "buffer_steps": config.buffer,
        "hwm": 100_000,
        "max_queue_size": 100_000,
        "topic": config.topic,
    });
    json(StatusCode::OK, &serde_json::json!({ "0": source }))
}

/// vLLM has this route in its development mode only.
fn reset_prefix_cache(context: &EngineContext) -> Response<Body> {
    let status = if context.ranks.reset_cache() {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    whole(status, None, "")
}

fn tokenized(
    context: &EngineContext,
    request: &RecordedRequest,
) -> Result<Response<Body>, ApiError> {
    require_json(request)?;
    let fields = Fields::parse(&request.body)?;
    check_model(context, &fields)?;
    let tokens = match fields.optional::<Text<'_>>("prompt", STRING)? {
        Some(text) => tokenize(&text.0),
        None => prompt::chat(&fields, "messages")?,
    };
    let strings = || tokens.iter().map(|token| detokenize(&[*token])).collect();
    let token_strs = fields.flag("return_token_strs")?.then(strings);
    let max_model_len = context.config.context();
    Ok(json(
        StatusCode::OK,
        &Tokenized {
            count: tokens.len(),
            max_model_len,
            tokens,
            token_strs,
        },
    ))
}

fn detokenized(request: &RecordedRequest) -> Result<Response<Body>, ApiError> {
    require_json(request)?;
    let tokens: Vec<u32> = Fields::parse(&request.body)?.required("tokens", LIST)?;
    Ok(json(
        StatusCode::OK,
        &serde_json::json!({ "prompt": detokenize(&tokens) }),
    ))
}

fn count_tokens(
    context: &EngineContext,
    request: &RecordedRequest,
) -> Result<Response<Body>, ApiError> {
    require_json(request)?;
    let fields = Fields::parse(&request.body)?;
    check_model(context, &fields)?;
    let count = prompt::chat(&fields, "messages")?.len();
    Ok(raw_json(
        StatusCode::OK,
        format!(
            r#"{{"input_tokens":{count},"context_management":{{"original_input_tokens":{count}}}}}"#
        ),
    ))
}

fn check_model(context: &EngineContext, fields: &Fields<'_>) -> Result<Arc<str>, ApiError> {
    let name: Option<Text<'_>> = fields.optional("model", STRING)?;
    context
        .model(name.as_ref().map(|name| name.0.as_ref()))
        .map(|(model, _)| model)
}

/// The share of a prompt that is cached here, for the KV manager of trials: it takes the question
/// that one is asked.
fn held(context: &EngineContext, request: &RecordedRequest) -> Result<Response<Body>, ApiError> {
    let question = Question::read(&request.body);
    let question = question.ok_or_else(|| {
        ApiError::bad_request(None, "this is no question of a KV manager".to_owned())
    })?;
    let share = question.share(|model, prompt| context.held_prefix_tokens(model, prompt));
    Ok(raw_json(StatusCode::OK, share.to_string()))
}

fn faults(context: &EngineContext, request: &RecordedRequest) -> Result<Response<Body>, ApiError> {
    if request.method == Method::DELETE {
        context.faults.clear();
        return Ok(raw_json(StatusCode::OK, "{}"));
    }
    let order = serde_json::from_slice(&request.body);
    let FaultOrder { fault, requests } =
        order.map_err(|error| ApiError::bad_request(None, format!("this is no fault: {error}")))?;
    match requests {
        Some(requests) => context.faults.set_for(requests, fault),
        None => context.faults.set(fault),
    }
    Ok(raw_json(StatusCode::OK, "{}"))
}
