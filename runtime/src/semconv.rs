//! The names of attributes and metrics that both planes use, and the bucket bounds that go with them.
//!
//! HTTP and server names are from the stable OpenTelemetry conventions, `gen_ai.*` from the GenAI conventions, which
//! are still in development: they are written down once, here, because they still move. `hermes.*` is our own. On
//! `/metrics` the dots of a name become underscores and the unit is appended.

/// Span attributes of an HTTP exchange.
pub mod http {
    /// `GET`, `POST`, …
    pub const REQUEST_METHOD: &str = "http.request.method";
    /// On retries: how often this request was sent before.
    pub const REQUEST_RESEND_COUNT: &str = "http.request.resend_count";
    /// The status as an integer.
    pub const RESPONSE_STATUS_CODE: &str = "http.response.status_code";
    /// The matched route, such as `/v1/chat/completions`; never the raw path.
    pub const ROUTE: &str = "http.route";
    /// The path without its query.
    pub const URL_PATH: &str = "url.path";
    /// `http` or `https`.
    pub const URL_SCHEME: &str = "url.scheme";
    /// The address of a client span's request, without credentials.
    pub const URL_FULL: &str = "url.full";
    /// `1.1` or `2`.
    pub const NETWORK_PROTOCOL_VERSION: &str = "network.protocol.version";
    /// The client's address.
    pub const CLIENT_ADDRESS: &str = "client.address";
    /// The client's `User-Agent`.
    pub const USER_AGENT_ORIGINAL: &str = "user_agent.original";
}

/// Where a request went.
pub mod server {
    /// Host name or address.
    pub const ADDRESS: &str = "server.address";
    /// Port as an integer.
    pub const PORT: &str = "server.port";
}

/// What went wrong: a value of a small closed set, or a status as text.
pub const ERROR_TYPE: &str = "error.type";

/// Generative AI requests. <https://github.com/open-telemetry/semantic-conventions-genai>
pub mod gen_ai {
    /// `chat`, `text_completion`, `embeddings`, …
    pub const OPERATION_NAME: &str = "gen_ai.operation.name";
    /// The kind of the engine, such as `vllm`.
    pub const PROVIDER_NAME: &str = "gen_ai.provider.name";
    /// The model that the client asked for.
    pub const REQUEST_MODEL: &str = "gen_ai.request.model";
    /// Whether the client asked for a stream.
    pub const REQUEST_STREAM: &str = "gen_ai.request.stream";
    /// The bound on output tokens that the client set.
    pub const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
    /// The model that answered.
    pub const RESPONSE_MODEL: &str = "gen_ai.response.model";
    /// The engine's id of the answer.
    pub const RESPONSE_ID: &str = "gen_ai.response.id";
    /// Time from the request to the first chunk of the answer, in seconds, as a double.
    pub const RESPONSE_TIME_TO_FIRST_CHUNK: &str = "gen_ai.response.time_to_first_chunk";
    /// Tokens of the prompt, cached ones included.
    pub const USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
    /// Tokens of the answer.
    pub const USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
    /// Tokens of the prompt that the engine found in its KV cache.
    pub const USAGE_CACHE_READ_INPUT_TOKENS: &str = "gen_ai.usage.cache_read.input_tokens";

    /// Metric: duration of a whole request, in seconds.
    pub const SERVER_REQUEST_DURATION: &str = "gen_ai.server.request.duration";
    /// Metric: time to first token (TTFT), in seconds.
    pub const SERVER_TIME_TO_FIRST_TOKEN: &str = "gen_ai.server.time_to_first_token";
    /// Metric: time per output token after the first (TPOT), in seconds.
    pub const SERVER_TIME_PER_OUTPUT_TOKEN: &str = "gen_ai.server.time_per_output_token";
}

/// What only Hermes knows.
pub mod hermes {
    /// The id of the request, as the client sees it in its response headers.
    pub const REQUEST_ID: &str = "hermes.request.id";
    /// How a request ended.
    pub const OUTCOME: &str = "hermes.outcome";
    /// The pool that serves the model.
    pub const POOL: &str = "hermes.pool";
    /// The endpoint that was chosen.
    pub const ENDPOINT: &str = "hermes.endpoint";
    /// `prefill`, `decode` or `both`.
    pub const STAGE: &str = "hermes.stage";
    /// The strategy that chose.
    pub const STRATEGY: &str = "hermes.strategy";
    /// Who chose: the control plane, or which step of the fallback ladder.
    pub const DECIDED_BY: &str = "hermes.decided_by";
    /// How many endpoints could have been chosen.
    pub const CANDIDATES: &str = "hermes.candidates";
    /// Tokens of the prompt that the chosen endpoint was expected to hold.
    pub const EXPECTED_CACHED_TOKENS: &str = "hermes.expected.cached_tokens";
    /// The TTFT that was expected of the chosen endpoint, in seconds.
    pub const EXPECTED_TTFT: &str = "hermes.expected.ttft";
    /// How long the request waited for a server with room, in seconds.
    pub const QUEUE_WAIT: &str = "hermes.queue.wait";
    /// The epoch of the snapshot: which control-plane replica, and which of its lives, made it.
    pub const SNAPSHOT_EPOCH: &str = "hermes.snapshot.epoch";
    /// The version of the snapshot that the request saw.
    pub const SNAPSHOT_VERSION: &str = "hermes.snapshot.version";
}

/// Upper bounds of histogram buckets, as the conventions advise them.
pub mod buckets {
    /// [`super::gen_ai::SERVER_REQUEST_DURATION`], in seconds: doubling from 10 ms, so that a request of a minute
    /// still falls into a bucket.
    pub const REQUEST_DURATION: &[f64] = &[
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    ];
    /// [`super::gen_ai::SERVER_TIME_TO_FIRST_TOKEN`], in seconds.
    pub const TIME_TO_FIRST_TOKEN: &[f64] = &[
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    ];
    /// [`super::gen_ai::SERVER_TIME_PER_OUTPUT_TOKEN`], in seconds.
    pub const TIME_PER_OUTPUT_TOKEN: &[f64] = &[
        0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    ];
    /// `http.server.request.duration` and `http.client.request.duration`, in seconds.
    pub const HTTP_REQUEST_DURATION: &[f64] = &[
        0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    ];
}

#[cfg(test)]
mod tests {
    use super::buckets;

    #[test]
    fn bucket_bounds_rise() {
        let sets = [
            buckets::REQUEST_DURATION,
            buckets::TIME_TO_FIRST_TOKEN,
            buckets::TIME_PER_OUTPUT_TOKEN,
            buckets::HTTP_REQUEST_DURATION,
        ];
        for bounds in sets {
            assert!(bounds.is_sorted_by(|low, high| low < high), "{bounds:?}");
        }
    }
}
