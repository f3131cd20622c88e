//! The keys of one pool.

use super::{HOUR, Key, Kind, MINUTE, SECOND, Section, millis};

pub(in super::super) static POOL: Section = Section {
    path: "pools[]",
    keys: &[
        Key::new(
            "name",
            Kind::Text("1 to 63 characters of a-z, 0-9 and -"),
            "(required)",
            "Names the pool in metrics, traces and explanations; unique.",
        ),
        Key::new(
            "models",
            Kind::List("at most 1000 model names"),
            "(what the engines answer on `/v1/models`)",
            "The names that clients may put into `model`.",
        ),
        Key::new(
            "engine",
            Kind::OneOf(&["vllm", "sglang", "trtllm", "tgi", "llamacpp", "openai"]),
            "vllm",
            "What runs behind the endpoints; `openai` is any OpenAI-compatible server.",
        ),
        Key::new(
            "endpoints",
            Kind::List("URLs such as http://10.0.0.7:8000"),
            "[]",
            "Static endpoints: `http://host:port`, without path and credentials. A pool needs these, or `kubernetes`, or both.",
        ),
        Key::new(
            "kubernetes",
            Kind::Mapping("a mapping"),
            "",
            "Endpoints that Kubernetes knows.",
        ),
        Key::new(
            "strategy",
            Kind::Mapping("a strategy's name, or a mapping with `name`"),
            "kv-aware",
            "How an endpoint is chosen: a name, or a mapping with the name and its settings.",
        ),
        Key::new(
            "metrics",
            Kind::Mapping("a mapping"),
            "",
            "How the engines' metrics are collected.",
        ),
        Key::new(
            "kvManager",
            Kind::Mapping("a mapping"),
            "",
            "A global KV-cache manager to ask which endpoint holds a prompt.",
        ),
        Key::new(
            "kvEvents",
            Kind::Mapping("a mapping"),
            "",
            "Follows the engines' KV events, which tell exactly what is cached where.",
        ),
        Key::new(
            "tokenizer",
            Kind::Mapping("a mapping"),
            "",
            "How prompts become the engines' token ids, for what goes by them.",
        ),
        Key::new(
            "timeouts",
            Kind::Mapping("a mapping"),
            "",
            "How long each step of a request may take.",
        ),
        Key::new(
            "retry",
            Kind::Mapping("a mapping"),
            "",
            "What happens when an attempt fails before its first byte.",
        ),
        Key::new(
            "ejection",
            Kind::Mapping("a mapping"),
            "",
            "When a failing endpoint is left alone.",
        ),
        Key::new(
            "prefix",
            Kind::Mapping("a mapping"),
            "",
            "How prompts are hashed.",
        ),
        Key::new(
            "scoreDeadline",
            millis(1, 10 * SECOND),
            "20ms",
            "How long a proxy waits for the control plane's choice before it chooses by itself; the KV manager's `lookupTimeout` and the tokenizer's `timeout` are added to it.",
        ),
        Key::new(
            "queue",
            Kind::Mapping("a mapping"),
            "",
            "How much may wait in the control plane, under `kv-aware`.",
        ),
        Key::new(
            "tenant",
            Kind::Text("`key`, `model` or `header:NAME`"),
            "key",
            "What tells tenants apart, among whom waiting is shared fairly: the API key, the model's name, or a header.",
        ),
    ],
};

pub(in super::super) static KUBERNETES: Section = Section {
    path: "pools[].kubernetes",
    keys: &[
        Key::new(
            "namespace",
            Kind::Text("a namespace's name: 1 to 63 characters of a-z, 0-9 and -"),
            "(the control plane's own)",
            "Where to look.",
        ),
        Key::new(
            "services",
            Kind::Mapping("a mapping of label names to values"),
            "",
            "Labels of the Services whose endpoints are taken. Either this or `pods`.",
        ),
        Key::new(
            "pods",
            Kind::Mapping("a mapping of label names to values"),
            "",
            "Labels of the pods that are taken.",
        ),
        Key::new(
            "port",
            Kind::Mapping("a port from 1 to 65535, or a port's name"),
            "(required)",
            "The port that serves inference: a number or a name.",
        ),
        Key::new(
            "resync",
            millis(SECOND, 24 * HOUR),
            "5m",
            "How often everything is listed again, in case a watch has missed something.",
        ),
        Key::new(
            "timeout",
            millis(100, 10 * MINUTE),
            "10s",
            "How long one answer of the Kubernetes API may take.",
        ),
    ],
};

pub(in super::super) static STRATEGY: Section = Section {
    path: "pools[].strategy",
    keys: &[
        Key::new(
            "name",
            Kind::Text("a strategy's name"),
            "(required)",
            "`kv-aware`, `round-robin`, `random`, `least-request`, `power-of-two`, `session-affinity`, `prefix-cache` or \
             `hermes-classic`.",
        ),
        Key::new(
            "binding",
            Kind::OneOf(&["late", "early"]),
            "late",
            "Of `kv-aware`: whether a request waits in the control plane until an endpoint has room, or goes into an \
             engine's queue at once.",
        ),
        Key::new(
            "window",
            millis(1, 10_000),
            "50ms",
            "Of `kv-aware`: an endpoint has room while what was sent there and not answered is less work than this.",
        ),
        Key::new(
            "gamma",
            Kind::Number(0.0, 1_000.0),
            "1",
            "Of `kv-aware`: how much the delay counts that wasted prefill causes to requests still to come; 1 is what queueing theory says.",
        ),
        Key::new(
            "gammaWaiting",
            Kind::Number(0.0, 1_000.0),
            "1",
            "Of `kv-aware`: how much the delay counts that wasted prefill causes to those who wait already; 1 is what queueing theory says.",
        ),
        Key::new(
            "defaultPrefillRate",
            Kind::Number(1.0, 1e7),
            "8000",
            "Of `kv-aware`: prompt tokens a second of an endpoint until its own speed is learned.",
        ),
        Key::new(
            "defaultCacheTokens",
            Kind::Count(1_000, 1_000_000_000),
            "400000",
            "Of `kv-aware`: tokens that an endpoint is taken to cache when its engine does not tell.",
        ),
        Key::new(
            "weights",
            Kind::Mapping("a mapping"),
            "",
            "Of `hermes-classic`: what counts how much.",
        ),
        Key::new(
            "scale",
            Kind::OneOf(&["max", "raw"]),
            "max",
            "Of `hermes-classic`: counts are divided by the largest among the candidates, or taken as they are.",
        ),
        Key::new(
            "keys",
            Kind::List("1 to 8 of `user`, `key` and `header:NAME`"),
            "[header:x-session-id, user, key]",
            "Of `session-affinity`: where the session is named, tried in order: a header, the body's `user`, or the API key.",
        ),
        Key::new(
            "loadFactor",
            Kind::Number(1.01, 100.0),
            "(1.25; 1.5 for `prefix-cache`)",
            "Of `session-affinity` and `prefix-cache`: an endpoint takes at most this multiple of the mean load.",
        ),
        Key::new(
            "threshold",
            Kind::Number(0.0, 1.0),
            "0.5",
            "Of `prefix-cache`: share of the prompt that has to be cached at an endpoint for its cache to count.",
        ),
    ],
};

pub(in super::super) static QUEUE: Section = Section {
    path: "pools[].queue",
    keys: &[
        Key::new(
            "maxRequests",
            Kind::Count(1, 1_000_000),
            "10000",
            "Requests that wait at most; over it the answer is 429.",
        ),
        Key::new(
            "maxBytes",
            Kind::Size(1 << 10, 1 << 40),
            "1GiB",
            "Bytes of the prompts that wait at most, which proxies hold meanwhile; over it the answer is 429.",
        ),
        Key::new(
            "maxWait",
            millis(1, HOUR),
            "30s",
            "Longest wait; after it the answer is 503.",
        ),
    ],
};

pub(in super::super) static WEIGHTS: Section = Section {
    path: "pools[].strategy.weights",
    keys: &[
        Key::new(
            "miss",
            Kind::Number(0.0, 1_000.0),
            "1",
            "Times the share of the prompt that is not cached there.",
        )
        .also(&["kvCacheHitNotRateWeight", "kvCacheNotHitRateWeight"]),
        Key::new(
            "usage",
            Kind::Number(0.0, 1_000.0),
            "1",
            "Times the usage of the KV cache.",
        )
        .also(&["xpuCacheUsageWeight"]),
        Key::new(
            "waiting",
            Kind::Number(0.0, 1_000.0),
            "1",
            "Times the requests that wait in the engine.",
        )
        .also(&["waitingRequestWeight"]),
        Key::new(
            "inFlight",
            Kind::Number(0.0, 1_000.0),
            "1",
            "Times the prompt tokens sent there and not yet answered.",
        )
        .also(&["inflightWeight"]),
    ],
};

pub(in super::super) static METRICS: Section = Section {
    path: "pools[].metrics",
    keys: &[
        Key::new(
            "enabled",
            Kind::Flag,
            "(true; false for the engine `openai`)",
            "Whether metrics are collected at all.",
        ),
        Key::new(
            "interval",
            millis(100, 10 * MINUTE),
            "1s",
            "How often each endpoint is asked.",
        ),
        Key::new(
            "timeout",
            millis(10, 5 * MINUTE),
            "2s",
            "How long one answer may take.",
        ),
        Key::new(
            "path",
            Kind::Text("a path such as /metrics"),
            "(`/metrics`; `/prometheus/metrics` for the engine `trtllm`)",
            "Where the engine exposes its metrics.",
        ),
        Key::new(
            "staleAfter",
            millis(100, HOUR),
            "(three intervals, at least 5s)",
            "Samples older than this are not used; longer than `interval`.",
        ),
    ],
};

pub(in super::super) static KV_EVENTS: Section = Section {
    path: "pools[].kvEvents",
    keys: &[
        Key::new("enabled", Kind::Flag, "true", "Whether they are followed."),
        Key::new(
            "port",
            Kind::Count(1, 65_535),
            "(what the engine says at `/kv_event_sources`, else `5557`)",
            "Where rank 0 publishes, on the endpoint's host. What Kubernetes tells of a pod goes before it.",
        ),
        Key::new(
            "replayPort",
            Kind::Count(0, 65_535),
            "(what the engine says, else `5558`)",
            "Where rank 0 replays what was published before; `0` for nowhere.",
        ),
        Key::new(
            "portName",
            Kind::Text("a port's name: a-z, 0-9 and -, with a letter"),
            "(`zmq-pub`, else `kv-events`)",
            "In Kubernetes: the port of the pod, or of the Service where Services are selected, where rank 0 publishes.",
        ),
        Key::new(
            "replayPortName",
            Kind::Text("a port's name: a-z, 0-9 and -, with a letter"),
            "(`zmq-replay`, else `kv-replay`)",
            "In Kubernetes: the port where rank 0 replays.",
        ),
        Key::new(
            "topic",
            Kind::Text("the beginning of a topic"),
            "(every topic)",
            "What is subscribed to.",
        ),
        Key::new(
            "ranks",
            Kind::Count(1, 64),
            "(what the engine says, else `1`)",
            "Data-parallel ranks of each endpoint; rank `r` has both ports moved up by `r`.",
        ),
    ],
};

pub(in super::super) static TIMEOUTS: Section = Section {
    path: "pools[].timeouts",
    keys: &[
        Key::new(
            "connect",
            millis(1, MINUTE),
            "2s",
            "Opening a connection to an endpoint.",
        ),
        Key::new(
            "request",
            millis(10, 24 * HOUR),
            "120s",
            "A whole request that does not stream.",
        ),
        Key::new(
            "firstByte",
            millis(10, 24 * HOUR),
            "60s",
            "From sending a streaming request to the first byte of its answer.",
        ),
        Key::new(
            "idle",
            millis(10, 24 * HOUR),
            "300s",
            "Silence inside a streamed answer.",
        ),
    ],
};

pub(in super::super) static RETRY: Section = Section {
    path: "pools[].retry",
    keys: &[
        Key::new(
            "maxAttempts",
            Kind::Count(1, 10),
            "3",
            "Attempts for one request, the first included.",
        ),
        Key::new(
            "budget",
            Kind::Number(0.0, 1.0),
            "0.2",
            "Retries as a share of all requests.",
        ),
    ],
};

pub(in super::super) static EJECTION: Section = Section {
    path: "pools[].ejection",
    keys: &[
        Key::new(
            "consecutiveFailures",
            Kind::Count(1, 1_000),
            "3",
            "Failures in a row that take an endpoint out.",
        ),
        Key::new(
            "baseTime",
            millis(10, 10 * MINUTE),
            "1s",
            "First time out; doubles with every failed trial.",
        ),
        Key::new(
            "maxTime",
            millis(10, HOUR),
            "30s",
            "Longest time out; not under `baseTime`.",
        ),
        Key::new(
            "slowStart",
            millis(0, 10 * MINUTE),
            "5s",
            "How long an endpoint that came back takes to get its whole share.",
        ),
    ],
};

pub(in super::super) static PREFIX: Section = Section {
    path: "pools[].prefix",
    keys: &[Key::new(
        "blockBytes",
        Kind::Size(16, 64 << 10),
        "256",
        "Size of the chunks over which prompts are hashed.",
    )],
};
