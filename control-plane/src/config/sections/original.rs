//! The keys of the original hermes-router's block `app`, with its own defaults.

use super::{HOUR, Key, Kind, MINUTE, SECOND, Section, millis};

pub(in super::super) static APP: Section = Section {
    path: "app",
    keys: &[
        Key::new(
            "namespace",
            Kind::Text("a namespace's name: 1 to 63 characters of a-z, 0-9 and -"),
            "(the control plane's own)",
            "The namespace that bounds discovery.",
        ),
        Key::new(
            "strategy",
            Kind::Mapping("a strategy's name, or a mapping with `name`"),
            "kv-aware",
            "`kv-aware` or `round-robin` (also `roundrobin`, `rr`), or any that a pool may have.",
        ),
        Key::new(
            "weights",
            Kind::Mapping("a mapping"),
            "",
            "Weights under the names of `pools[].strategy.weights`; others than the defaults choose `hermes-classic`.",
        ),
        Key::new(
            "timeout",
            millis(10, 24 * HOUR),
            "120s",
            "A whole request that does not stream.",
        ),
        Key::new(
            "discovery",
            Kind::Mapping("a mapping"),
            "",
            "Which Services to take.",
        ),
        Key::new(
            "collector",
            Kind::Mapping("a mapping"),
            "",
            "How metrics are collected.",
        ),
        Key::new(
            "kvmanager",
            Kind::Mapping("a mapping"),
            "(none)",
            "The global KV-cache manager.",
        ),
    ],
};

pub(in super::super) static DISCOVERY: Section = Section {
    path: "app.discovery",
    keys: &[
        Key::new(
            "type",
            Kind::OneOf(&["k8s-service"]),
            "k8s-service",
            "What is discovered.",
        ),
        Key::new(
            "interval",
            millis(SECOND, 24 * HOUR),
            "5s",
            "How often everything is listed again; changes are watched in between.",
        ),
        Key::new(
            "labelSelector",
            Kind::Mapping("a mapping of label names to values"),
            "{app: vllm}",
            "Labels of the Services whose endpoints are taken.",
        ),
        Key::new(
            "inferencePort",
            Kind::Mapping("a port from 1 to 65535, or a port's name"),
            "8000",
            "The port that serves inference.",
        ),
        Key::new(
            "timeout",
            millis(100, 10 * MINUTE),
            "10s",
            "How long one answer of the Kubernetes API may take.",
        ),
    ],
};

pub(in super::super) static COLLECTOR: Section = Section {
    path: "app.collector",
    keys: &[
        Key::new(
            "type",
            Kind::OneOf(&["vllm", "sglang", "trtllm", "tgi", "llamacpp", "openai"]),
            "vllm",
            "The engine; the original knew only `vllm`.",
        ),
        Key::new(
            "interval",
            millis(100, 10 * MINUTE),
            "5s",
            "How often each endpoint is asked.",
        ),
        Key::new(
            "timeout",
            millis(10, 5 * MINUTE),
            "10s",
            "How long one answer may take.",
        ),
        Key::new(
            "metrics",
            Kind::List("at most 100 metric names"),
            "[]",
            "Accepted and not needed: what the strategies read is always collected. Names that are not read are warned of.",
        ),
    ],
};

pub(in super::super) static KVMANAGER: Section = Section {
    path: "app.kvmanager",
    keys: &[
        Key::new(
            "protocol",
            Kind::OneOf(&["match-sort", "match_sort"]),
            "match-sort",
            "What it speaks.",
        ),
        Key::new(
            "url",
            Kind::Text("a URL such as http://cache-indexer-service"),
            "(required; empty: no KV manager)",
            "Scheme and host.",
        ),
        Key::new("port", Kind::Count(1, 65_535), "8080", "Its port."),
        Key::new(
            "matchPath",
            Kind::Text("a path such as /match_sort"),
            "/match_sort",
            "The path of its lookup.",
        ),
        Key::new(
            "timeout",
            millis(10, 5 * MINUTE),
            "10s",
            "The connection's; a request waits at most 50ms for an answer, whatever stands here.",
        ),
    ],
};
