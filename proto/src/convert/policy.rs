//! Policies of pools.

use std::{sync::Arc, time::Duration};

use hermes_core::policy::{
    ClassicWeights, CountScale, EjectionPolicy, EndpointTrust, KvAware, PoolPolicy,
    PrefixCacheRules, QueueLimits, RetryPolicy, SessionAffinity, SessionKey, Strategy, TenantKey,
    Timeouts,
};

use super::{Invalid, each, required};
use crate::v1::{
    self, policy::Strategy as WireStrategy, session_key::Key, tenant_key::Key as Tenant,
};

/// Durations travel as whole milliseconds; a longer one becomes the largest that fits.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A weight or share: finite and not negative.
fn weight(value: f32, field: &str) -> Result<f32, Invalid> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(Invalid::new(field, "must be a finite number, zero or more"))
}

// === Policy ===

impl From<&PoolPolicy> for v1::Policy {
    fn from(policy: &PoolPolicy) -> Self {
        let PoolPolicy {
            strategy,
            timeouts,
            retry,
            ejection,
            block_bytes,
            score_deadline,
            lookup_text,
            tenant,
            trust,
            disaggregation,
        } = policy;
        Self {
            timeouts: Some(timeouts.into()),
            retry: Some(v1::Retry {
                max_attempts: retry.max_attempts,
                budget: retry.budget,
            }),
            ejection: Some(ejection.into()),
            block_bytes: *block_bytes,
            score_deadline_ms: u32::try_from(score_deadline.as_millis()).unwrap_or(u32::MAX),
            lookup_text: *lookup_text,
            tenant: Some(tenant.into()),
            strategy: Some(strategy.into()),
            authorities: trust.authorities().map(ToString::to_string),
            disaggregation: disaggregation.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<v1::Policy> for PoolPolicy {
    type Error = Invalid;

    fn try_from(wire: v1::Policy) -> Result<Self, Invalid> {
        let v1::Policy {
            timeouts,
            retry,
            ejection,
            block_bytes,
            score_deadline_ms,
            lookup_text,
            strategy,
            tenant,
            authorities,
            disaggregation,
        } = wire;
        if authorities
            .as_ref()
            .is_some_and(|pem| pem.len() > EndpointTrust::MAX_BYTES)
        {
            return Err(Invalid::new("authorities", "must be at most 64 KiB of PEM"));
        }
        if block_bytes == 0 {
            return Err(Invalid::new("block_bytes", "must be at least 1"));
        }
        let v1::Retry {
            max_attempts,
            budget,
        } = required(retry, "retry")?;
        if max_attempts == 0 {
            return Err(Invalid::new(
                "retry.max_attempts",
                "must be at least 1: the first attempt counts",
            ));
        }
        Ok(Self {
            strategy: required(strategy, "strategy")?.try_into()?,
            timeouts: required(timeouts, "timeouts")?.into(),
            retry: RetryPolicy {
                max_attempts,
                budget: weight(budget, "retry.budget")?,
            },
            ejection: required(ejection, "ejection")?.into(),
            block_bytes,
            score_deadline: Duration::from_millis(u64::from(score_deadline_ms)),
            lookup_text,
            tenant: tenant.map_or_else(TenantKey::default, TenantKey::from),
            trust: authorities.map_or(EndpointTrust::System, |pem| {
                EndpointTrust::Authorities(pem.into())
            }),
            disaggregation: disaggregation
                .map(|wire| {
                    wire.try_into()
                        .map_err(|e: Invalid| e.inside("disaggregation"))
                })
                .transpose()?,
        })
    }
}

// === WireStrategy ===

impl From<&Strategy> for WireStrategy {
    fn from(strategy: &Strategy) -> Self {
        match strategy {
            Strategy::RoundRobin => Self::RoundRobin(v1::RoundRobin {}),
            Strategy::Random => Self::Random(v1::Random {}),
            Strategy::LeastRequest => Self::LeastRequest(v1::LeastRequest {}),
            Strategy::PowerOfTwo => Self::PowerOfTwo(v1::PowerOfTwo {}),
            Strategy::SessionAffinity(SessionAffinity { keys, load_factor }) => {
                Self::SessionAffinity(v1::SessionAffinity {
                    keys: keys.iter().map(v1::SessionKey::from).collect(),
                    load_factor: *load_factor,
                })
            }
            Strategy::PrefixCache(PrefixCacheRules {
                threshold,
                load_factor,
            }) => Self::PrefixCache(v1::PrefixCache {
                threshold: *threshold,
                load_factor: *load_factor,
            }),
            Strategy::KvAware(rules) => Self::KvAware(rules.into()),
            Strategy::HermesClassic(weights) => Self::HermesClassic(weights.into()),
        }
    }
}

impl TryFrom<WireStrategy> for Strategy {
    type Error = Invalid;

    fn try_from(wire: WireStrategy) -> Result<Self, Invalid> {
        Ok(match wire {
            WireStrategy::RoundRobin(v1::RoundRobin {}) => Self::RoundRobin,
            WireStrategy::Random(v1::Random {}) => Self::Random,
            WireStrategy::LeastRequest(v1::LeastRequest {}) => Self::LeastRequest,
            WireStrategy::PowerOfTwo(v1::PowerOfTwo {}) => Self::PowerOfTwo,
            WireStrategy::SessionAffinity(affinity) => Self::SessionAffinity(affinity.try_into()?),
            WireStrategy::PrefixCache(rules) => Self::PrefixCache(rules.try_into()?),
            WireStrategy::KvAware(rules) => Self::KvAware(rules.try_into()?),
            WireStrategy::HermesClassic(weights) => Self::HermesClassic(weights.try_into()?),
        })
    }
}

impl TryFrom<v1::SessionAffinity> for SessionAffinity {
    type Error = Invalid;

    fn try_from(wire: v1::SessionAffinity) -> Result<Self, Invalid> {
        let v1::SessionAffinity { keys, load_factor } = wire;
        if !(load_factor.is_finite() && load_factor > 1.0) {
            return Err(Invalid::new(
                "session_affinity.load_factor",
                "must be a finite number above 1",
            ));
        }
        Ok(Self {
            keys: each(keys, "session_affinity.keys")?,
            load_factor,
        })
    }
}

impl From<&SessionKey> for v1::SessionKey {
    fn from(key: &SessionKey) -> Self {
        let key = match key {
            SessionKey::Header(name) => Key::Header(name.to_string()),
            SessionKey::Key => Key::Credential(true),
            SessionKey::User => Key::User(true),
        };
        Self { key: Some(key) }
    }
}

impl TryFrom<v1::SessionKey> for SessionKey {
    type Error = Invalid;

    fn try_from(wire: v1::SessionKey) -> Result<Self, Invalid> {
        Ok(match required(wire.key, "key")? {
            Key::Header(name) => Self::Header(Arc::from(name.to_ascii_lowercase())),
            Key::Credential(_) => Self::Key,
            Key::User(_) => Self::User,
        })
    }
}

impl TryFrom<v1::PrefixCache> for PrefixCacheRules {
    type Error = Invalid;

    fn try_from(wire: v1::PrefixCache) -> Result<Self, Invalid> {
        let v1::PrefixCache {
            threshold,
            load_factor,
        } = wire;
        if !(load_factor.is_finite() && load_factor >= 1.0) {
            return Err(Invalid::new(
                "prefix_cache.load_factor",
                "must be a finite number, at least 1",
            ));
        }
        Ok(Self {
            threshold: weight(threshold, "prefix_cache.threshold")?,
            load_factor,
        })
    }
}

impl From<&KvAware> for v1::KvAware {
    fn from(rules: &KvAware) -> Self {
        let KvAware {
            late,
            window,
            gamma,
            gamma_waiting,
            default_prefill_rate,
            default_cache_tokens,
            queue,
        } = *rules;
        let QueueLimits {
            max_requests,
            max_bytes,
            max_wait,
            max_priority,
        } = queue;
        Self {
            late,
            window_ms: millis(window),
            gamma,
            gamma_waiting,
            default_prefill_rate,
            default_cache_tokens,
            queue: Some(v1::Queue {
                max_requests,
                max_bytes,
                max_wait_ms: millis(max_wait),
                max_priority: u32::try_from(max_priority).unwrap_or(0),
            }),
        }
    }
}

impl TryFrom<v1::KvAware> for KvAware {
    type Error = Invalid;

    fn try_from(wire: v1::KvAware) -> Result<Self, Invalid> {
        let v1::KvAware {
            late,
            window_ms,
            gamma,
            gamma_waiting,
            default_prefill_rate,
            queue,
            default_cache_tokens,
        } = wire;
        let v1::Queue {
            max_requests,
            max_bytes,
            max_wait_ms,
            max_priority,
        } = required(queue, "kv_aware.queue")?;
        if !(default_prefill_rate.is_finite() && default_prefill_rate > 0.0) {
            return Err(Invalid::new(
                "kv_aware.default_prefill_rate",
                "must be a finite number above 0",
            ));
        }
        Ok(Self {
            late,
            window: Duration::from_millis(window_ms),
            gamma: weight(gamma, "kv_aware.gamma")?,
            gamma_waiting: weight(gamma_waiting, "kv_aware.gamma_waiting")?,
            default_prefill_rate,
            default_cache_tokens,
            queue: QueueLimits {
                max_requests,
                max_bytes,
                max_wait: Duration::from_millis(max_wait_ms),
                max_priority: i32::try_from(max_priority).unwrap_or(i32::MAX),
            },
        })
    }
}

impl From<&ClassicWeights> for v1::HermesClassic {
    fn from(weights: &ClassicWeights) -> Self {
        let ClassicWeights {
            miss,
            usage,
            waiting,
            in_flight,
            scale,
        } = *weights;
        let scale = match scale {
            CountScale::Max => v1::Scale::Max,
            CountScale::Raw => v1::Scale::Raw,
        };
        Self {
            miss,
            usage,
            waiting,
            in_flight,
            scale: scale.into(),
        }
    }
}

impl TryFrom<v1::HermesClassic> for ClassicWeights {
    type Error = Invalid;

    fn try_from(wire: v1::HermesClassic) -> Result<Self, Invalid> {
        let v1::HermesClassic {
            miss,
            usage,
            waiting,
            in_flight,
            scale,
        } = wire;
        let scale = match v1::Scale::try_from(scale) {
            Ok(v1::Scale::Max) => CountScale::Max,
            Ok(v1::Scale::Raw) => CountScale::Raw,
            Err(_) => {
                return Err(Invalid::new(
                    "hermes_classic.scale",
                    "is not one that this release knows",
                ));
            }
        };
        Ok(Self {
            miss: weight(miss, "hermes_classic.miss")?,
            usage: weight(usage, "hermes_classic.usage")?,
            waiting: weight(waiting, "hermes_classic.waiting")?,
            in_flight: weight(in_flight, "hermes_classic.in_flight")?,
            scale,
        })
    }
}

// === TenantKey ===

impl From<&TenantKey> for v1::TenantKey {
    fn from(key: &TenantKey) -> Self {
        let key = match key {
            TenantKey::None => None,
            TenantKey::Header(name) => Some(Tenant::Header(name.to_string())),
            TenantKey::Key => Some(Tenant::Credential(true)),
            TenantKey::Model => Some(Tenant::Model(true)),
        };
        Self { key }
    }
}

impl From<v1::TenantKey> for TenantKey {
    /// A key that this release does not know makes no tenants.
    fn from(wire: v1::TenantKey) -> Self {
        match wire.key {
            Some(Tenant::Header(name)) => Self::Header(Arc::from(name.to_ascii_lowercase())),
            Some(Tenant::Model(_)) => Self::Model,
            Some(Tenant::Credential(_)) => Self::Key,
            None => Self::None,
        }
    }
}

// === Timeouts ===

impl From<&Timeouts> for v1::Timeouts {
    fn from(timeouts: &Timeouts) -> Self {
        let Timeouts {
            connect,
            request,
            first_byte,
            idle,
        } = *timeouts;
        Self {
            connect_ms: millis(connect),
            request_ms: millis(request),
            first_byte_ms: millis(first_byte),
            idle_ms: millis(idle),
        }
    }
}

impl From<v1::Timeouts> for Timeouts {
    fn from(wire: v1::Timeouts) -> Self {
        let v1::Timeouts {
            connect_ms,
            request_ms,
            first_byte_ms,
            idle_ms,
        } = wire;
        Self {
            connect: Duration::from_millis(connect_ms),
            request: Duration::from_millis(request_ms),
            first_byte: Duration::from_millis(first_byte_ms),
            idle: Duration::from_millis(idle_ms),
        }
    }
}

// === Ejection ===

impl From<&EjectionPolicy> for v1::Ejection {
    fn from(policy: &EjectionPolicy) -> Self {
        let EjectionPolicy {
            consecutive_failures,
            base_time,
            max_time,
            slow_start,
        } = *policy;
        Self {
            consecutive_failures,
            base_time_ms: millis(base_time),
            max_time_ms: millis(max_time),
            slow_start_ms: millis(slow_start),
        }
    }
}

impl From<v1::Ejection> for EjectionPolicy {
    fn from(wire: v1::Ejection) -> Self {
        let v1::Ejection {
            consecutive_failures,
            base_time_ms,
            max_time_ms,
            slow_start_ms,
        } = wire;
        Self {
            consecutive_failures,
            base_time: Duration::from_millis(base_time_ms),
            max_time: Duration::from_millis(max_time_ms),
            slow_start: Duration::from_millis(slow_start_ms),
        }
    }
}
