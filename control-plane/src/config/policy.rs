//! How requests of a pool are handled, apart from the strategy: timeouts, retries, ejection, prompt
//! hashing, tenants.

use std::time::Duration;

use hermes_core::policy::{EjectionPolicy, PoolPolicy, QueueLimits, RetryPolicy, Timeouts};

use super::{
    duration::{DAY, HOUR, MINUTE, SECOND},
    section::Section,
    tenant,
};

/// The policy among the keys of a pool, with the default strategy.
pub(super) fn read(pool: &mut Section<'_>) -> PoolPolicy {
    let defaults = PoolPolicy::default();
    PoolPolicy {
        timeouts: pool.section("timeouts", "Timeouts of a request's steps.", read_timeouts),
        retry: pool.section(
            "retry",
            "Retries of attempts that fail before their first byte.",
            read_retry,
        ),
        ejection: pool.section(
            "ejection",
            "Ejection of failing endpoints (outlier detection).",
            read_ejection,
        ),
        block_bytes: pool.section("prefix", "How prompts are hashed.", |section| {
            let meaning = "Size of the blocks in which prompts are hashed.";
            section
                .size("blockBytes", 16..=64 << 10, meaning)
                .or(defaults.block_bytes)
        }),
        score_deadline: pool
            .duration(
                "scoreDeadline",
                SECOND / 1_000..=SECOND * 10,
                "How long a proxy waits for the control plane's choice before it falls back to its own; \
                 the KV manager's `lookupTimeout` and the tokenizer's `timeout` are added to it.",
            )
            .or(defaults.score_deadline),
        tenant: tenant::read(pool),
        ..defaults
    }
}

/// The mapping `queue` of a pool.
pub(super) fn read_queue(section: &mut Section<'_>) -> QueueLimits {
    let defaults = QueueLimits::default();
    QueueLimits {
        max_requests: section
            .count(
                "maxRequests",
                1..=1_000_000,
                "Most queued requests; above it the response is 429.",
            )
            .or(defaults.max_requests),
        max_bytes: section
            .size(
                "maxBytes",
                1 << 10..=1 << 40,
                "Most bytes of queued prompts, which the proxies hold; above it the response is 429. Encoded images, audio and files count 4 KiB each.",
            )
            .or(defaults.max_bytes),
        max_wait: section
            .duration(
                "maxWait",
                SECOND / 1_000..=HOUR,
                "Longest time in the queue; after it the response is 503.",
            )
            .or(defaults.max_wait),
        max_priority: section
            .count(
                "maxPriority",
                0..=8,
                "Highest priority that clients may give their requests; a higher one counts as this. It does not bound `modelPriorities`.",
            )
            .or(defaults.max_priority),
    }
}

fn read_timeouts(section: &mut Section<'_>) -> Timeouts {
    let defaults = Timeouts::default();
    Timeouts {
        connect: section
            .duration(
                "connect",
                SECOND / 1_000..=MINUTE,
                "Time to establish a connection to an endpoint.",
            )
            .or(defaults.connect),
        request: section
            .duration(
                "request",
                SECOND / 100..=DAY,
                "Time of a non-streaming request, from sending it to the last byte of its response.",
            )
            .or(defaults.request),
        first_byte: section
            .duration(
                "firstByte",
                SECOND / 100..=DAY,
                "Time from sending a streaming request to its first token.",
            )
            .or(defaults.first_byte),
        idle: section
            .duration(
                "idle",
                SECOND / 100..=DAY,
                "Longest pause between two chunks of a streaming response.",
            )
            .or(defaults.idle),
    }
}

fn read_retry(section: &mut Section<'_>) -> RetryPolicy {
    let defaults = RetryPolicy::default();
    RetryPolicy {
        max_attempts: section
            .count(
                "maxAttempts",
                1..=10,
                "Most attempts for one request, the first included.",
            )
            .or(defaults.max_attempts),
        budget: section
            .number(
                "budget",
                0.0..=1.0,
                "Retry budget: retries as a share of all requests.",
            )
            .or(defaults.budget),
    }
}

fn read_ejection(section: &mut Section<'_>) -> EjectionPolicy {
    let defaults = EjectionPolicy::default();
    let policy = EjectionPolicy {
        consecutive_failures: section
            .count(
                "consecutiveFailures",
                1..=1_000,
                "Consecutive failures that eject an endpoint.",
            )
            .or(defaults.consecutive_failures),
        base_time: section
            .duration(
                "baseTime",
                SECOND / 100..=MINUTE * 10,
                "Duration of the first ejection; doubles with each failed trial request.",
            )
            .or(defaults.base_time),
        max_time: section
            .duration(
                "maxTime",
                SECOND / 100..=HOUR,
                "Longest ejection; at least `baseTime`.",
            )
            .or(defaults.max_time),
        slow_start: section
            .duration(
                "slowStart",
                Duration::ZERO..=MINUTE * 10,
                "Slow start: how long an endpoint takes after its ejection to get its full share of requests.",
            )
            .or(defaults.slow_start),
    };
    if policy.max_time < policy.base_time {
        section.error(
            "maxTime",
            "shorter than `baseTime`",
            "set it to at least `baseTime`",
        );
    }
    policy
}
