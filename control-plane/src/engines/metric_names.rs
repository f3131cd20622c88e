//! Which metric of which engine carries which signal: one table for all engines.
//!
//! No engine uses another's names, so a page needs no hint of its origin, and an OpenAI-compatible
//! server that exposes an engine's names is read as that engine. Several rows for one signal are
//! generations of a name, newest first: a release that keeps the old name beside the new one (vLLM
//! 0.10 did) must not be counted twice.

/// What a metric says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Requests in the engine's queue.
    Waiting,
    /// Requests in the running batch.
    Running,
    /// Share of KV-cache memory in use, 0..=1.
    KvUsage,
    /// Tokens in one KV-cache block.
    BlockSize,
    /// Blocks of the KV cache.
    NumBlocks,
    /// Counter of prompt tokens looked up in the prefix cache.
    PrefixQueries,
    /// Counter of prompt tokens found there.
    PrefixHits,
    /// Adapters in labels; the value is the Unix time at which they were so.
    Adapters,
    /// 1 while the engine is awake, 0 while its memory is given back.
    Awake,
    /// Unix time in seconds at which the process started.
    Started,
}

impl Signal {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::Started as usize + 1;
}

/// Where in a sample a signal's number stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SampleValue {
    /// It is the sample's value.
    Value,
    /// It is the text of this label; the value is a constant 1.
    Label(&'static str),
}

/// One generation of one metric of one engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MetricRow {
    /// The metric's name.
    pub(crate) name: &'static str,
    /// Only samples with this label and value, where several things share a name.
    pub(crate) only: Option<(&'static str, &'static str)>,
    /// What it says.
    pub(crate) signal: Signal,
    /// Where it says it.
    pub(crate) place: SampleValue,
}

const fn row(name: &'static str, signal: Signal) -> MetricRow {
    MetricRow {
        name,
        only: None,
        signal,
        place: SampleValue::Value,
    }
}

const fn label(name: &'static str, label: &'static str, signal: Signal) -> MetricRow {
    MetricRow {
        name,
        only: None,
        signal,
        place: SampleValue::Label(label),
    }
}

const fn only(
    name: &'static str,
    label: &'static str,
    value: &'static str,
    signal: Signal,
) -> MetricRow {
    MetricRow {
        name,
        only: Some((label, value)),
        signal,
        place: SampleValue::Value,
    }
}

/// All engines. Among rows for the same signal the first that a page has is read and the others are
/// ignored.
#[rustfmt::skip]
pub(crate) const TABLE: &[MetricRow] = &[
    // vLLM. `gpu_*` are the names before 0.10, gone in 0.12.
    row("vllm:num_requests_waiting", Signal::Waiting),
    row("vllm:num_requests_running", Signal::Running),
    row("vllm:kv_cache_usage_perc", Signal::KvUsage),
    row("vllm:gpu_cache_usage_perc", Signal::KvUsage),
    label("vllm:cache_config_info", "block_size", Signal::BlockSize),
    label("vllm:cache_config_info", "num_gpu_blocks", Signal::NumBlocks),
    row("vllm:prefix_cache_queries_total", Signal::PrefixQueries),
    row("vllm:gpu_prefix_cache_queries_total", Signal::PrefixQueries),
    // As simulators write it whose client library adds no suffix to counters.
    row("vllm:prefix_cache_queries", Signal::PrefixQueries),
    row("vllm:prefix_cache_hits_total", Signal::PrefixHits),
    row("vllm:gpu_prefix_cache_hits_total", Signal::PrefixHits),
    row("vllm:prefix_cache_hits", Signal::PrefixHits),
    row("vllm:lora_requests_info", Signal::Adapters),
    only("vllm:engine_sleep_state", "sleep_state", "awake", Signal::Awake),
    // SGLang with --enable-metrics. `cache_config_info` is the form before 0.5.23.
    row("sglang:num_queue_reqs", Signal::Waiting),
    row("sglang:num_running_reqs", Signal::Running),
    row("sglang:token_usage", Signal::KvUsage),
    row("sglang:page_size", Signal::BlockSize),
    label("sglang:cache_config_info", "page_size", Signal::BlockSize),
    row("sglang:num_pages", Signal::NumBlocks),
    label("sglang:cache_config_info", "num_pages", Signal::NumBlocks),
    row("sglang:prompt_tokens_total", Signal::PrefixQueries),
    row("sglang:cached_tokens_total", Signal::PrefixHits),
    // trtllm-serve, at /prometheus/metrics.
    row("trtllm_num_requests_waiting", Signal::Waiting),
    row("trtllm_num_requests_running", Signal::Running),
    row("trtllm_kv_cache_utilization", Signal::KvUsage),
    row("trtllm_kv_cache_tokens_per_block", Signal::BlockSize),
    row("trtllm_kv_cache_max_blocks", Signal::NumBlocks),
    // Triton with the TensorRT-LLM backend, then Triton with any other.
    only("nv_trt_llm_request_metrics", "request_type", "waiting", Signal::Waiting),
    only("nv_trt_llm_request_metrics", "request_type", "scheduled", Signal::Running),
    only("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "fraction", Signal::KvUsage),
    only("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "tokens_per", Signal::BlockSize),
    only("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "max", Signal::NumBlocks),
    row("nv_inference_pending_request_count", Signal::Waiting),
    // TGI: no figure for the KV cache.
    row("tgi_queue_size", Signal::Waiting),
    row("tgi_batch_current_size", Signal::Running),
    // llama.cpp with --metrics. The usage is gone from current builds.
    row("llamacpp:requests_deferred", Signal::Waiting),
    row("llamacpp:requests_processing", Signal::Running),
    row("llamacpp:kv_cache_usage_ratio", Signal::KvUsage),
    // Any process with a Prometheus client library.
    row("process_start_time_seconds", Signal::Started),
];

/// Whether any row reads this metric.
pub(crate) fn is_wanted(name: &str) -> bool {
    TABLE.iter().any(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_reads_something_of_its_own() {
        for (at, row) in TABLE.iter().enumerate() {
            let twin = TABLE[..at].iter().find(|other| {
                (other.name, other.only, other.place) == (row.name, row.only, row.place)
            });
            assert!(twin.is_none(), "{} is read twice in the same way", row.name);
        }
    }

    #[test]
    fn a_histogram_that_begins_like_a_gauge_is_not_wanted() {
        assert!(is_wanted("vllm:num_requests_waiting"));
        assert!(!is_wanted("vllm:num_requests_waiting_by_reason"));
        assert!(!is_wanted("vllm:iteration_tokens_total_bucket"));
    }
}
