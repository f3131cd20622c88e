use proptest::prelude::*;

use super::*;

fn read(page: &str) -> Scraped {
    Scraped::read(page.as_bytes()).expect("an exposition")
}

fn sample(waiting: u32, running: u32, kv_usage: impl Into<Option<f32>>) -> EngineSample {
    EngineSample {
        waiting: Some(waiting),
        running: Some(running),
        kv_usage: kv_usage.into(),
    }
}

fn cache(block_size: u32, num_blocks: u64) -> CacheInfo {
    CacheInfo {
        block_size: Some(block_size),
        num_blocks: Some(num_blocks),
    }
}

/// A page of this crate's test data.
macro_rules! page {
    ($name:literal) => {
        read(include_str!(concat!(
            "../../../testdata/metrics/",
            $name,
            ".txt"
        )))
    };
}

#[test]
fn an_idle_vllm_says_so() {
    let scraped = page!("vllm-0.32");
    assert_eq!(scraped.sample, sample(0, 0, 0.0));
    assert_eq!(scraped.cache, cache(32, 16_384));
    assert_eq!(
        (scraped.prefix_queries, scraped.prefix_hits),
        (Some(972.0), Some(320.0))
    );
    assert_eq!(scraped.asleep, Some(false));
    assert_eq!(scraped.started, Some(1_795_319_958.59));
    assert_eq!(
        (scraped.adapters, scraped.refused, scraped.skipped_lines),
        (None, 0, 0)
    );
}

#[test]
fn of_the_states_of_adapters_the_newest_is_true() {
    let adapters = page!("vllm-0.32-lora")
        .adapters
        .expect("it serves adapters");
    assert_eq!(
        adapters,
        Adapters {
            running: vec![],
            waiting: vec![],
            max: Some(2)
        }
    );

    let page = "vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"a, b\",waiting_lora_adapters=\"c\"} 9\n\
                vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"old\",waiting_lora_adapters=\"\"} 8\n";
    let adapters = read(page).adapters.expect("it serves adapters");
    assert_eq!(adapters.running, ["a".into(), "b".into()]);
    assert_eq!(adapters.waiting, ["c".into()]);
}

#[test]
fn data_parallel_ranks_of_an_old_vllm_make_one_server() {
    let scraped = page!("vllm-0.9-two-ranks");
    assert_eq!(scraped.sample, sample(2, 8, 0.5));
    // The second rank has not measured its memory yet.
    assert_eq!(scraped.cache, cache(16, 2_000));
    assert_eq!(
        (scraped.prefix_queries, scraped.prefix_hits),
        (Some(4_000.0), Some(1_000.0))
    );
    assert_eq!(scraped.schedulers, Some(2));
}

#[test]
fn ranks_of_one_sglang_scheduler_and_its_priorities_are_not_counted_twice() {
    let scraped = page!("sglang");
    assert_eq!(scraped.sample, sample(1, 10, 0.375));
    assert_eq!(scraped.cache, cache(64, 2_048));
    assert_eq!(
        (scraped.prefix_queries, scraped.prefix_hits),
        (Some(900.0), Some(300.0))
    );
    assert_eq!(scraped.schedulers, Some(2));
}

#[test]
fn schedulers_are_counted_by_the_labels_that_name_them() {
    let page = |ranks: u32| -> String {
        let rows = (0..ranks).flat_map(|rank| {
            ["a", "b"].map(|model| {
                format!("vllm:num_requests_running{{engine=\"{rank}\",model_name=\"{model}\"}} 1\n")
            })
        });
        rows.collect()
    };
    let schedulers = |page: &str| read(page).schedulers;
    assert_eq!(schedulers(&page(1)), Some(1));
    assert_eq!(schedulers(&page(8)), Some(8));
    assert_eq!(schedulers(&page(70)), Some(64), "bounded");
    // One of several engines behind a load balancer of their own.
    assert_eq!(
        schedulers("vllm:num_requests_running{engine=\"5\"} 1\n"),
        Some(1)
    );
    assert_eq!(schedulers("tgi_queue_size 3\n"), None);
    assert_eq!(
        schedulers("vllm:cache_config_info{block_size=\"16\",engine=\"1\"} 1\n"),
        None,
        "not of a signal that every scheduler has"
    );
}

#[test]
fn every_other_engine_is_read() {
    let old_sglang = page!("sglang-old");
    assert_eq!(
        (old_sglang.sample, old_sglang.cache),
        (sample(7, 2, 0.125), cache(1, 512))
    );
    let trtllm = page!("trtllm");
    assert_eq!(
        (trtllm.sample, trtllm.cache),
        (sample(3, 8, 0.4), cache(32, 4_096))
    );
    let triton = page!("triton");
    assert_eq!(
        (triton.sample, triton.cache),
        (sample(2, 6, 0.0625), cache(64, 160))
    );
    assert_eq!(page!("tgi").sample, sample(5, 12, None));
    assert_eq!(page!("llamacpp").sample, sample(4, 1, 0.5));
}

#[test]
fn an_old_name_beside_the_new_one_is_not_counted_twice() {
    let new = "vllm:kv_cache_usage_perc{engine=\"0\"} 0.2\nvllm:prefix_cache_hits_total{engine=\"0\"} 5\n";
    let old = "vllm:gpu_cache_usage_perc{engine=\"0\"} 0.4\nvllm:gpu_prefix_cache_hits_total{engine=\"0\"} 7\n";
    for page in [format!("{new}{old}"), format!("{old}{new}")] {
        let scraped = read(&page);
        assert_eq!(
            (scraped.sample.kv_usage, scraped.prefix_hits),
            (Some(0.2), Some(5.0)),
            "{page}"
        );
    }
}

#[test]
fn counters_without_the_suffix_of_counters_are_read() {
    let page = "vllm:prefix_cache_queries{model_name=\"m\"} 90\nvllm:prefix_cache_hits{model_name=\"m\"} 5\n";
    let scraped = read(page);
    assert_eq!(
        (scraped.prefix_queries, scraped.prefix_hits),
        (Some(90.0), Some(5.0))
    );
}

#[test]
fn a_value_that_cannot_be_true_takes_its_whole_signal_away_and_no_other() {
    for value in ["-1", "NaN", "+Inf", "1e30"] {
        let page = format!(
            "vllm:num_requests_waiting{{engine=\"0\"}} 3\nvllm:num_requests_waiting{{engine=\"1\"}} {value}\nvllm:num_requests_running 2\n"
        );
        let scraped = read(&page);
        assert_eq!(
            (
                scraped.sample.waiting,
                scraped.sample.running,
                scraped.refused
            ),
            (None, Some(2), 1),
            "{value}"
        );
    }
    assert_eq!(
        read("vllm:kv_cache_usage_perc 1.0000001\n").sample.kv_usage,
        Some(1.0)
    );
    assert_eq!(
        read("vllm:kv_cache_usage_perc 52.5\n").sample.kv_usage,
        None
    );
}

#[test]
fn a_sleeping_engine_is_seen() {
    let page = "vllm:engine_sleep_state{engine=\"0\",sleep_state=\"awake\"} 0\nvllm:engine_sleep_state{engine=\"0\",sleep_state=\"weights_offloaded\"} 1\n";
    assert_eq!(read(page).asleep, Some(true));
}

#[test]
fn pages_without_known_metrics_say_nothing_and_other_documents_are_errors() {
    assert_eq!(read(""), Scraped::default());
    assert_eq!(read("# HELP x y\nother_metric 1\n"), Scraped::default());
    assert_eq!(
        Scraped::read(b"<html>\n<body>not here</body>\n</html>\n"),
        Err(NotAnExposition)
    );
    assert_eq!(Scraped::read(b"[{\"iter\": 1}]"), Err(NotAnExposition));
}

proptest! {
    #[test]
    fn whatever_is_said_figures_are_in_range(
        lines in proptest::collection::vec((0..TABLE.len(), 0..3u8, any::<f64>()), 0..40),
    ) {
        let page: String = lines.iter().map(|(row, engine, value)| format!("{}{{engine=\"{engine}\"}} {value}\n", TABLE[*row].name)).collect();
        let scraped = read(&page);
        prop_assert!(scraped.sample.kv_usage.is_none_or(|usage| (0.0..=1.0).contains(&usage)));
        prop_assert!(scraped.prefix_hits.is_none_or(|hits| hits >= 0.0));
    }
}
