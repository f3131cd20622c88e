//! `/metrics`: the families of vLLM 0.32, in its order, with its names, labels and help texts.
//!
//! Left out are the families that describe the Python process and the web framework
//! (`python_*`, `process_*`, `http_*`).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::page::{Label, Page, escape};
use crate::config::EngineConfig;
use crate::model::meters::Meters;
use crate::model::scheduler::Scheduler;

/// Writes the exposition of one rank. `now` is in seconds since the Unix epoch.
pub(crate) fn render(
    mut page: Page,
    config: &EngineConfig,
    scheduler: &Scheduler,
    now: f64,
) -> String {
    let meters = scheduler.meters();
    estimates(&mut page);
    load(&mut page, config, scheduler);
    prefix_cache(&mut page, config, meters);
    tokens(&mut page, meters);
    outcomes(&mut page, meters);
    sizes(&mut page, meters);
    latencies(&mut page, meters);
    phases(&mut page, meters);
    if !config.loras.is_empty() {
        lora(&mut page, config, scheduler.adapters(), now);
    }
    cache_config(&mut page, config);
    page.into_text()
}

fn estimates(page: &mut Page) {
    let tail = "(for Model Flops Utilization calculations).";
    let none = [(Label::None, 0)];
    page.counter(
        "vllm:estimated_flops_per_gpu",
        &format!("Estimated number of floating point operations per GPU {tail}"),
        &none,
    );
    page.counter(
        "vllm:estimated_read_bytes_per_gpu",
        &format!("Estimated number of bytes read from memory per GPU {tail}"),
        &none,
    );
    page.counter(
        "vllm:estimated_write_bytes_per_gpu",
        &format!("Estimated number of bytes written to memory per GPU {tail}"),
        &none,
    );
}

fn load(page: &mut Page, config: &EngineConfig, scheduler: &Scheduler) {
    let (running, waiting) = (scheduler.running() as f64, scheduler.waiting() as f64);
    let usage = scheduler.cache().used() as f64 / scheduler.cache().capacity() as f64;
    let one = |value| [(Label::None, value)];
    page.gauge(
        "vllm:num_requests_running",
        "Number of requests in model execution batches.",
        &one(running),
    );
    page.gauge(
        "vllm:num_requests_waiting",
        "Number of requests waiting to be processed.",
        &one(waiting),
    );
    page.gauge(
        "vllm:num_requests_waiting_by_reason",
        "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; 'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all reasons equals vllm:num_requests_waiting.",
        &[(Label::Reason("capacity"), waiting), (Label::Reason("deferred"), 0.0)],
    );
    page.gauge(
        "vllm:engine_sleep_state",
        "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.",
        &[(Label::SleepState("awake"), 1.0), (Label::SleepState("weights_offloaded"), 0.0), (Label::SleepState("discard_all"), 0.0)],
    );
    let (name, help) = if config.legacy_metrics {
        (
            "vllm:gpu_cache_usage_perc",
            "GPU KV-cache usage. 1 means 100 percent usage.",
        )
    } else {
        (
            "vllm:kv_cache_usage_perc",
            "KV-cache usage. 1 means 100 percent usage.",
        )
    };
    page.gauge(name, help, &one(usage));
}

fn prefix_cache(page: &mut Page, config: &EngineConfig, meters: &Meters) {
    let one = |value| [(Label::None, value)];
    if config.legacy_metrics {
        page.counter(
            "vllm:gpu_prefix_cache_queries",
            "GPU prefix cache queries, in terms of number of queried tokens.",
            &one(meters.prefix_queries),
        );
        page.counter(
            "vllm:gpu_prefix_cache_hits",
            "GPU prefix cache hits, in terms of number of cached tokens.",
            &one(meters.prefix_hits),
        );
    } else {
        page.counter(
            "vllm:prefix_cache_queries",
            "Prefix cache queries, in terms of number of queried tokens.",
            &one(meters.prefix_queries),
        );
        page.counter(
            "vllm:prefix_cache_hits",
            "Prefix cache hits, in terms of number of cached tokens.",
            &one(meters.prefix_hits),
        );
    }
    let external = |what: &str| {
        format!(
            "External prefix cache {what} from KV connector cross-instance cache sharing, in terms of number of"
        )
    };
    page.counter(
        "vllm:external_prefix_cache_queries",
        &format!("{} queried tokens.", external("queries")),
        &one(0),
    );
    page.counter(
        "vllm:external_prefix_cache_hits",
        &format!("{} cached tokens.", external("hits")),
        &one(0),
    );
    page.counter(
        "vllm:mm_cache_queries",
        "Multi-modal cache queries, in terms of number of queried items.",
        &one(0),
    );
    page.counter(
        "vllm:mm_cache_hits",
        "Multi-modal cache hits, in terms of number of cached items.",
        &one(0),
    );
}

fn tokens(page: &mut Page, meters: &Meters) {
    let one = |value| [(Label::None, value)];
    let computed = meters.prompt_tokens.saturating_sub(meters.prefix_hits);
    page.counter(
        "vllm:num_preemptions",
        "Cumulative number of preemption from the engine.",
        &one(meters.preemptions),
    );
    page.counter(
        "vllm:prompt_tokens",
        "Number of prefill tokens processed.",
        &one(meters.prompt_tokens),
    );
    let sources = [
        ("local_compute", computed),
        ("local_cache_hit", meters.prefix_hits),
        ("external_kv_transfer", 0),
    ];
    let sources = sources.map(|(source, tokens)| (Label::Source(source), tokens));
    page.counter(
        "vllm:prompt_tokens_by_source",
        "Number of prompt tokens by source.",
        &sources,
    );
    page.counter(
        "vllm:prompt_tokens_cached",
        "Number of cached prompt tokens (local + external).",
        &one(meters.prefix_hits),
    );
    let tiers =
        ["host", "p2p", "disk", "external_unspecified"].map(|tier| (Label::Source(tier), 0));
    let tiers: Vec<_> = std::iter::once((Label::Source("device"), meters.prefix_hits))
        .chain(tiers)
        .collect();
    page.counter(
        "vllm:prompt_tokens_cached_by_source",
        "Prefix-cache hit tokens by the cache tier that supplied them: device (local HBM), host (offloaded to DRAM), disk, p2p (transferred from another vLLM instance) or external_unspecified. Counted at admission; sums to vllm:prefix_cache_hits + vllm:external_prefix_cache_hits.",
        &tiers,
    );
    page.counter(
        "vllm:generation_tokens",
        "Number of generation tokens processed.",
        &one(meters.generation_tokens),
    );
}

fn outcomes(page: &mut Page, meters: &Meters) {
    let reasons = [
        ("stop", meters.finished_stop),
        ("length", meters.finished_length),
        ("abort", 0),
        ("error", 0),
        ("repetition", 0),
    ];
    let reasons = reasons.map(|(reason, requests)| (Label::Finished(reason), requests));
    page.counter(
        "vllm:request_success",
        "Count of successfully processed requests.",
        &reasons,
    );
    let rejections = ["max_num_queued_reqs", "max_num_queued_tokens"]
        .map(|reason| (Label::Rejection(reason), 0));
    page.counter(
        "vllm:admission_rejections",
        "Number of admission attempts rejected by a queue limit, by reason.",
        &rejections,
    );
}

fn sizes(page: &mut Page, meters: &Meters) {
    let famioverrides = [
        (
            "vllm:request_prompt_tokens",
            "Number of prefill tokens processed.",
            &meters.request_prompt_tokens,
        ),
        (
            "vllm:request_generation_tokens",
            "Number of generation tokens processed.",
            &meters.request_generation_tokens,
        ),
        (
            "vllm:iteration_tokens_total",
            "Histogram of number of tokens per engine_step.",
            &meters.iteration_tokens,
        ),
        (
            "vllm:request_max_num_generation_tokens",
            "Histogram of maximum number of requested generation tokens.",
            &meters.request_max_tokens,
        ),
        (
            "vllm:request_params_n",
            "Histogram of the n request parameter.",
            &meters.request_choices,
        ),
        (
            "vllm:request_params_max_tokens",
            "Histogram of the max_tokens request parameter.",
            &meters.request_max_tokens,
        ),
    ];
    for (name, help, histogram) in famioverrides {
        page.histogram(name, help, histogram);
    }
}

fn latencies(page: &mut Page, meters: &Meters) {
    let famioverrides = [
        (
            "vllm:time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            &meters.time_to_first_token,
        ),
        (
            "vllm:inter_token_latency_seconds",
            "Histogram of inter-token latency in seconds.",
            &meters.inter_token_latency,
        ),
        (
            "vllm:request_time_per_output_token_seconds",
            "Histogram of time_per_output_token_seconds per request.",
            &meters.time_per_output_token,
        ),
        (
            "vllm:e2e_request_latency_seconds",
            "Histogram of e2e request latency in seconds.",
            &meters.e2e_latency,
        ),
    ];
    for (name, help, histogram) in famioverrides {
        page.histogram(name, help, histogram);
    }
}

fn phases(page: &mut Page, meters: &Meters) {
    let phases = [
        ("queue", "WAITING", &meters.queue_time),
        ("inference", "RUNNING", &meters.inference_time),
        ("prefill", "PREFILL", &meters.prefill_time),
        ("decode", "DECODE", &meters.decode_time),
    ];
    for (name, phase, histogram) in phases {
        let help = format!("Histogram of time spent in {phase} phase for request.");
        page.histogram(
            &format!("vllm:request_{name}_time_seconds"),
            &help,
            histogram,
        );
    }
    let help = "Histogram of the number of times a request was preempted.";
    page.histogram(
        "vllm:request_num_preemptions",
        help,
        &meters.request_preemptions,
    );
    let help = "Histogram of new KV tokens computed during prefill (excluding cached tokens).";
    page.histogram(
        "vllm:request_prefill_kv_computed_tokens",
        help,
        &meters.request_computed_tokens,
    );
}

fn cache_config(page: &mut Page, config: &EngineConfig) {
    let EngineConfig {
        block_size, blocks, ..
    } = config;
    let engine = page.engine();
    let tokens = blocks * block_size;
    let concurrency = tokens as f64 / config.context() as f64;
    let labels = format!(
        r#"_block_size_resolved="True",block_size="{block_size}",cache_dtype="auto",cache_hit_alignment_tokens="None",effective_attention_block_size="{block_size}",enable_mamba_shared_prefix_checkpoint="False",enable_prefix_caching="True",engine="{engine}",gpu_memory_utilization="0.92",hash_block_size="None",is_attention_free="False",kv_cache_dtype_skip_layers="[]",kv_cache_layout="None",kv_cache_max_concurrency="{concurrency:?}",kv_cache_memory_bytes="None",kv_cache_size_tokens="{tokens}",kv_offloading_backend="native",kv_offloading_size="None",kv_sharing_fast_prefill="False",mamba_block_size="None",mamba_cache_dtype="auto",mamba_cache_mode="none",mamba_page_size_padded="None",mamba_ssm_cache_dtype="float32",num_cpu_blocks="None",num_gpu_blocks="{blocks}",num_gpu_blocks_override="None",prefix_cache_retention_interval="0",prefix_caching_hash_algo="sha256",prefix_match_unit="None",replayssm_buffer_len="16",skip_page_size_padded="None",sliding_window="None",swa_bounded_replay="True",use_kda_recoverssm="False",use_replayssm="False",user_specified_block_size="True""#
    );
    page.gauge(
        "vllm:cache_config_info",
        "Information of the LLMEngine CacheConfig",
        &[(Label::Whole(&labels), 1.0)],
    );
}

fn lora(page: &mut Page, config: &EngineConfig, adapters: [BTreeSet<Arc<str>>; 2], now: f64) {
    let [running, waiting] = adapters.map(|names| {
        names
            .iter()
            .map(|name| escape(name))
            .collect::<Vec<_>>()
            .join(",")
    });
    let max = config.loras.len();
    let labels = format!(
        r#"max_lora="{max}",running_lora_adapters="{running}",waiting_lora_adapters="{waiting}""#
    );
    page.gauge(
        "vllm:lora_requests_info",
        "Running stats on lora requests.",
        &[(Label::Whole(&labels), now)],
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const CAPTURED: &str = include_str!("../../fixtures/vllm-0.32.0-metrics-lora.txt");

    fn rendered(loras: &[&str]) -> String {
        let config = EngineConfig {
            model: "tiny".to_owned(),
            loras: loras.iter().map(|name| (*name).to_owned()).collect(),
            block_size: 32,
            blocks: 16_384,
            max_model_len: 4096,
            ..EngineConfig::default()
        };
        let page = Page::new(0, &config.model, 1.79e9, BTreeMap::new());
        render(page, &config, &Scheduler::new(config.limits()), 1.79e9)
    }

    /// The parts of an exposition that do not change from run to run: comments, and samples without
    /// their values.
    fn shape(text: &str) -> Vec<String> {
        let relevant = text.lines().filter(|line| line.contains("vllm:"));
        let shapes = relevant.map(|line| {
            if line.starts_with('#') {
                line
            } else {
                line.rsplit_once(' ').map_or(line, |(series, _)| series)
            }
        });
        shapes.map(str::to_owned).collect()
    }

    #[test]
    fn famioverrides_labels_and_help_are_those_of_a_captured_vllm_in_its_order() {
        let varies = |line: &String| {
            line.starts_with("vllm:lora_requests_info{")
                || line.starts_with("vllm:cache_config_info{")
        };
        let captured: Vec<String> = shape(CAPTURED)
            .into_iter()
            .filter(|line| !varies(line))
            .collect();
        let ours: Vec<String> = shape(&rendered(&["lora-a", "lora-b"]))
            .into_iter()
            .filter(|line| !varies(line))
            .collect();
        for (ours, captured) in ours.iter().zip(&captured) {
            assert_eq!(ours, captured);
        }
        assert_eq!(ours.len(), captured.len());
    }

    #[test]
    fn the_cache_configuration_has_the_captured_labels() {
        let labels = |text: &str| -> Vec<String> {
            let line = text
                .lines()
                .find(|line| line.starts_with("vllm:cache_config_info{"))
                .unwrap()
                .to_owned();
            line.split(['{', ','])
                .skip(1)
                .filter_map(|label| label.split_once('='))
                .map(|(name, _)| name.to_owned())
                .collect()
        };
        assert_eq!(labels(&rendered(&[])), labels(CAPTURED));
    }

    #[test]
    fn an_engine_without_adapters_has_no_lora_family() {
        assert!(!rendered(&[]).contains("lora_requests_info"));
        assert!(rendered(&["a"]).contains(
            r#"vllm:lora_requests_info{max_lora="1",running_lora_adapters="",waiting_lora_adapters=""} 1.79e+09"#
        ));
    }
}
