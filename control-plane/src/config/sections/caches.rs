//! The keys of a pool's sources of exact knowledge of caches.

use super::{Key, Kind, MINUTE, SECOND, Section, millis};

pub(in super::super) static KV_MANAGER: Section = Section {
    path: "pools[].kvManager",
    keys: &[
        Key::new(
            "protocol",
            Kind::OneOf(&["match-sort", "match_sort", "conductor", "conductor-msgpack"]),
            "match-sort",
            "What it speaks: `/match_sort` by text, or Mooncake's `/query` by tokens, which needs `tokenizer`.",
        )
        .also(&["kind"]),
        Key::new(
            "url",
            Kind::Text("a URL such as http://cache-indexer-service:8080/match_sort"),
            "(required)",
            "Where it listens; port and path may stand here or in `port` and `path`.",
        ),
        Key::new("port", Kind::Count(1, 65_535), "(8080; 13333 of a conductor)", "Its port."),
        Key::new(
            "path",
            Kind::Text("a path such as /match_sort"),
            "(/match_sort; /query of a conductor)",
            "The path of its lookup.",
        ),
        Key::new(
            "timeout",
            millis(10, 5 * MINUTE),
            "10s",
            "How long a connection may take to open, and an answer may take before the connection is given up. No request waits for it.",
        ),
        Key::new(
            "lookupTimeout",
            millis(1, 5 * SECOND),
            "50ms",
            "How long a request waits for an answer; after it nothing is known of the cache.",
        ),
        Key::new(
            "cacheTtl",
            millis(0, MINUTE),
            "500ms",
            "How long an answer is used again for the same prefix; 0s asks every time.",
        ),
        Key::new(
            "idKeys",
            Kind::List("1 to 32 JSON names"),
            "[pod_ip, podIP, ip, address, endpoint, instance, instance_id, name, pod]",
            "Of `match-sort`: where an entry of the answer names the endpoint; the first that is there counts.",
        ),
        Key::new(
            "scoreKeys",
            Kind::List("1 to 32 JSON names"),
            "[match_rate, hit_rate, score, match, longest_matched, matched_tokens]",
            "Of `match-sort`: where an entry of the answer has its degree of match; the first that is there counts.",
        ),
        Key::new("conductor", Kind::Mapping("a mapping"), "", "Of a conductor: what it is asked."),
    ],
};

pub(in super::super) static CONDUCTOR: Section = Section {
    path: "pools[].kvManager.conductor",
    keys: &[
        Key::new(
            "tenantId",
            Kind::Text("a tenant's name"),
            "default",
            "Whose caches are asked about.",
        ),
        Key::new(
            "model",
            Kind::Text("a model's name"),
            "(the request's, or its base model)",
            "The name of the model at the conductor.",
        ),
        Key::new(
            "loraName",
            Kind::Text("an adapter's name"),
            "(none)",
            "The adapter of requests that name none.",
        ),
        Key::new(
            "cacheSalt",
            Kind::Text("a salt"),
            "(none)",
            "The salt of requests that have none.",
        ),
        Key::new(
            "blockSize",
            Kind::Count(1, 65_536),
            "(what the engines' metrics say)",
            "Tokens in a block of the engines' KV caches.",
        ),
        Key::new(
            "instances",
            Kind::Mapping(
                "a mapping of the conductor's instance names to addresses such as 10.0.0.7:8000",
            ),
            "",
            "Whom the conductor's names mean. Addresses, hosts and pods are understood without.",
        ),
        Key::new(
            "register",
            Kind::Mapping("true, false, or a mapping"),
            "false",
            "Registers the pool's endpoints at the conductor, and takes back those that are gone.",
        ),
    ],
};

pub(in super::super) static REGISTER: Section = Section {
    path: "pools[].kvManager.conductor.register",
    keys: &[
        Key::new(
            "port",
            Kind::Count(1, 65_535),
            "5557",
            "The port at which the first rank of each endpoint publishes its KV events; each further rank has the next.",
        ),
        Key::new(
            "replayPort",
            Kind::Count(1, 65_535),
            "(none)",
            "The port of the first rank's replay socket.",
        ),
        Key::new(
            "ranks",
            Kind::Count(1, 1_024),
            "1",
            "Data-parallel ranks of each endpoint.",
        ),
        Key::new(
            "source",
            Kind::OneOf(&["vllm", "sglang"]),
            "vllm",
            "Whose events they are.",
        ),
        Key::new(
            "algorithm",
            Kind::Text("an algorithm's name"),
            "sha256_cbor",
            "How the engines hash blocks: their `--prefix-caching-hash-algo`. Told in msgpack alone.",
        ),
        Key::new(
            "hashSeed",
            Kind::Text("a number, or random"),
            "\"0\"",
            "The engines' `PYTHONHASHSEED`. Told in msgpack alone.",
        ),
    ],
};

pub(in super::super) static TOKENIZER: Section = Section {
    path: "pools[].tokenizer",
    keys: &[
        Key::new(
            "path",
            Kind::Text("the directory of the model, or its tokenizer.json"),
            "(either this or `engine`)",
            "Files of the model: tokenizer.json, tokenizer_config.json, chat_template.jinja. Read again when they change.",
        ),
        Key::new(
            "template",
            Kind::Text("a file with a Jinja template"),
            "(the model's own)",
            "Another chat template: what the engines have in `--chat-template`.",
        ),
        Key::new(
            "contentFormat",
            Kind::OneOf(&["auto", "string", "openai"]),
            "auto",
            "How the template wants a message's content: the engines' `--chat-template-content-format`.",
        ),
        Key::new(
            "templateKwargs",
            Kind::Mapping("a mapping"),
            "",
            "What the template is told besides: the engines' `--default-chat-template-kwargs`.",
        ),
        Key::new(
            "engine",
            Kind::Flag,
            "false",
            "Asks the engines at `/tokenize` (vLLM) instead of reading files.",
        ),
        Key::new(
            "timeout",
            millis(1, 5 * SECOND),
            "20ms",
            "How long a request waits for its token ids.",
        ),
        Key::new(
            "cacheSize",
            Kind::Size(1 << 10, 16 << 30),
            "64MiB",
            "Memory for token ids that were made lately.",
        ),
        Key::new(
            "maxPromptSize",
            Kind::Size(1 << 10, 1 << 20),
            "512KiB",
            "Longer prompts, in bytes of JSON, are not made into tokens.",
        ),
    ],
};
