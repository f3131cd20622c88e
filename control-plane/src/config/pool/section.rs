//! Reads one item of the list `pools`.

use std::{ops::RangeInclusive, sync::Arc};

use hermes_core::{address::ServerScheme, policy::PoolPolicy};

use super::{
    super::{
        asked_picker, collector,
        disaggregation::{self, PoolRoles},
        endpoint_tls,
        engine::EngineKind,
        kv_events, kv_manager, model_priorities,
        names::is_dns_label,
        node::Node,
        objectives, pickers, policy, rewrites,
        section::Section,
        source::{self, EndpointSource, KubernetesSelection},
        strategy, tokenizer,
    },
    ConfigOrigin, PoolFragment, PoolIssue, PoolParts,
};
use crate::discovery::RoleNames;

/// Most models that one pool may name.
const MAX_MODELS: usize = 1_000;

/// How many lanes an endpoint may have.
const LANES: RangeInclusive<u32> = 1..=64;

/// What a pool's name may be.
const NAME: &str = "1 to 63 characters of a-z, 0-9 and -";

/// One item of `pools`.
pub(in super::super) fn read(section: &mut Section<'_>) -> Option<PoolFragment> {
    let name = section
        .text_where(
            "name",
            NAME,
            is_dns_label,
            "Name of the pool in metrics, traces and explanations; unique.",
        )
        .required("set 1 to 63 characters of a-z, 0-9 and -");
    let parts = read_parts(section, name.clone().unwrap_or_default());
    let (pool, issues) = parts.check();
    for issue in issues {
        record(section, issue.key, &issue);
    }
    // A wrong name is recorded already.
    name.map(|_| PoolFragment {
        origin: ConfigOrigin::File(section.path().to_owned()),
        pool,
    })
}

fn read_parts(section: &mut Section<'_>, name: Arc<str>) -> PoolParts {
    let models = read_models(section);
    let (engine, lanes) = read_engine(section);
    let rewrites = rewrites::read(section);
    let priorities = model_priorities::read(section);
    let objectives = objectives::read(section);
    let pickers = pickers::read(section);
    let asked_picker = section.optional_section(
        "askPicker",
        "Another endpoint picker, which chooses the endpoints of requests: see [another picker](asked-pickers.md).",
        asked_picker::read,
    );
    let http2 = section
        .flag(
            "http2",
            "Whether endpoints at `http` addresses are spoken to over HTTP/2, as `appProtocol: kubernetes.io/h2c` of an \
             `InferencePool` says.",
        )
        .or(false);
    let mut sources = source::read(section);
    let (handling, roles) = read_handling(section, engine);
    sources
        .iter_mut()
        .for_each(|source| source.name_roles(&roles.names));
    PoolParts {
        name,
        models,
        lanes,
        // A role counts for an endpoint that another source finds, too.
        sources: roles.sources.into_iter().chain(sources).collect(),
        pickers,
        rewrites,
        priorities,
        objectives,
        asked_picker: asked_picker.flatten(),
        http2,
        ..handling
    }
}

/// The keys of a pool but those that name it, its models and its endpoints, and how its roles are
/// called. Its endpoints, which something else names, have this `scheme`.
pub(in super::super) fn read_policy(
    section: &mut Section<'_>,
    scheme: ServerScheme,
) -> (PoolParts, RoleNames) {
    let (engine, lanes) = read_engine(section);
    let (handling, PoolRoles { sources, names, .. }) = read_handling(section, engine);
    if !sources.is_empty() {
        let fix = "remove `prefill`, `decode` and `leaders`: labels of the pods name their roles";
        section.error("disaggregation", "static endpoints", fix);
    }
    let parts = PoolParts { lanes, ..handling };
    let (_, issues) = PoolParts {
        sources: vec![EndpointSource::Pods(KubernetesSelection::new(scheme))],
        ..parts.clone()
    }
    .check();
    for issue in issues {
        record(section, issue.key, &issue);
    }
    (parts, names)
}

fn read_engine(section: &mut Section<'_>) -> (EngineKind, Option<u32>) {
    let engine = section
        .one_of(
            "engine",
            &EngineKind::ALL,
            "Inference engine behind the endpoints; `openai` is any OpenAI-compatible server.",
        )
        .or(EngineKind::default());
    let lanes = section
        .count(
            "lanes",
            LANES,
            "For `kv-aware`: prompts that one endpoint computes at once, that is, independent schedulers behind its URL \
             (data-parallel ranks, pipeline stages).",
        )
        .or_unset("what the engine's metrics report, else `kvEvents.ranks`, else `1`");
    (engine, lanes)
}

/// How requests are handled, without name, models and endpoints; and the roles of endpoints.
fn read_handling(section: &mut Section<'_>, engine: EngineKind) -> (PoolParts, PoolRoles) {
    let roles = section.optional_section(
        "disaggregation",
        "How requests are split between prefill and decode endpoints; without it, those serve nothing.",
        disaggregation::read,
    );
    let mut roles = roles.unwrap_or_default();
    let strategy =
        strategy::key(section, "How an endpoint is chosen.").or(PoolPolicy::default().strategy);
    let queue = section.optional_section(
        "queue",
        "Bounds of the requests queued in the control plane, with `kv-aware`.",
        policy::read_queue,
    );
    let tls = section.optional_section(
        "tls",
        "How the certificates of endpoints at `https` addresses are verified.",
        endpoint_tls::read,
    );
    let collector = section.section(
        "metrics",
        "How the engines' metrics are scraped.",
        |section| collector::read(section, engine),
    );
    let kv_manager = section.optional_section(
        "kvManager",
        "A global KV-cache manager that is asked which endpoint holds a prompt.",
        kv_manager::read,
    );
    let kv_events = section.optional_section(
        "kvEvents",
        "The engines' KV events, which report exactly what each endpoint caches.",
        kv_events::read,
    );
    let tokenizer = section.optional_section(
        "tokenizer",
        "How prompts become the engines' token ids, for KV events and conductors.",
        |section| tokenizer::read(section, engine),
    );
    let policy = PoolPolicy {
        strategy,
        disaggregation: roles.policy.take(),
        ..policy::read(section)
    };
    let handling = PoolParts {
        engine,
        policy,
        tls,
        queue,
        collector,
        kv_manager: kv_manager.flatten(),
        kv_events: kv_events.flatten(),
        tokenizer: tokenizer.flatten(),
        ..PoolParts::new(Arc::default())
    };
    (handling, roles)
}

/// Records an issue at the key that the part has in this section.
pub(in super::super) fn record(section: &Section<'_>, key: &str, issue: &PoolIssue) {
    match issue.fix {
        None => section.warn(key, &issue.found),
        // A part that is given and absent from the parts is wrong, which is recorded already.
        Some(_) if section.has(key) => {}
        Some(fix) => section.error(key, issue.found.clone(), fix),
    }
}

fn read_models(section: &mut Section<'_>) -> Vec<Arc<str>> {
    let mut models = section
        .texts(
            "models",
            0..=MAX_MODELS,
            "model names",
            "Models that clients may request.",
            |node: &Node<'_>| node.text("a model's name").map(Arc::from),
            Arc::<str>::to_string,
        )
        .or_unset("what the engines list at `/v1/models`")
        .unwrap_or_default();
    models.sort();
    models
}
