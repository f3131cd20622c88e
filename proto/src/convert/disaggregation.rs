//! How requests are split between prefill and decode endpoints.

use std::time::Duration;

use hermes_core::policy::{DisaggregationPolicy, PairDialect, PairFallback};

use super::{Invalid, cluster::port_number, policy::millis};
use crate::v1;

impl From<&DisaggregationPolicy> for v1::Disaggregation {
    fn from(policy: &DisaggregationPolicy) -> Self {
        let DisaggregationPolicy {
            dialect,
            fallback,
            min_uncached_tokens,
            lease,
            bootstrap_port,
        } = policy;
        Self {
            dialect: v1::PairDialect::from(*dialect).into(),
            fallback: v1::PairFallback::from(*fallback).into(),
            min_uncached_tokens: *min_uncached_tokens,
            lease_ms: millis(*lease),
            bootstrap_port: bootstrap_port.get().into(),
        }
    }
}

impl TryFrom<v1::Disaggregation> for DisaggregationPolicy {
    type Error = Invalid;

    fn try_from(wire: v1::Disaggregation) -> Result<Self, Invalid> {
        let (dialect, fallback) = (wire.dialect(), wire.fallback());
        let v1::Disaggregation {
            dialect: _,
            fallback: _,
            min_uncached_tokens,
            lease_ms,
            bootstrap_port,
        } = wire;
        let dialect = match dialect {
            v1::PairDialect::VllmNixl => PairDialect::VllmNixl,
            v1::PairDialect::VllmMooncake => PairDialect::VllmMooncake,
            v1::PairDialect::Trtllm => PairDialect::Trtllm,
            v1::PairDialect::Sglang => PairDialect::Sglang,
            v1::PairDialect::SharedStorage => PairDialect::SharedStorage,
            v1::PairDialect::LeaderHeaders => PairDialect::LeaderHeaders,
            v1::PairDialect::LlmDSidecar => PairDialect::LlmDSidecar,
            v1::PairDialect::Unspecified => {
                let problem = "is not one that this release knows";
                return Err(Invalid::new("dialect", problem));
            }
        };
        Ok(Self {
            dialect,
            fallback: match fallback {
                v1::PairFallback::OtherPrefill => PairFallback::OtherPrefill,
                v1::PairFallback::Aggregate => PairFallback::Aggregate,
                v1::PairFallback::Fail => PairFallback::Fail,
            },
            min_uncached_tokens,
            lease: Duration::from_millis(lease_ms),
            bootstrap_port: port_number(bootstrap_port, "bootstrap_port")?,
        })
    }
}

impl From<PairDialect> for v1::PairDialect {
    fn from(dialect: PairDialect) -> Self {
        match dialect {
            PairDialect::VllmNixl => Self::VllmNixl,
            PairDialect::VllmMooncake => Self::VllmMooncake,
            PairDialect::Trtllm => Self::Trtllm,
            PairDialect::Sglang => Self::Sglang,
            PairDialect::SharedStorage => Self::SharedStorage,
            PairDialect::LeaderHeaders => Self::LeaderHeaders,
            PairDialect::LlmDSidecar => Self::LlmDSidecar,
        }
    }
}

impl From<PairFallback> for v1::PairFallback {
    fn from(fallback: PairFallback) -> Self {
        match fallback {
            PairFallback::OtherPrefill => Self::OtherPrefill,
            PairFallback::Aggregate => Self::Aggregate,
            PairFallback::Fail => Self::Fail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_and_fallback_survives_the_wire() {
        let fallbacks = [
            PairFallback::OtherPrefill,
            PairFallback::Aggregate,
            PairFallback::Fail,
        ];
        for dialect in PairDialect::ALL {
            for fallback in fallbacks {
                let policy = DisaggregationPolicy {
                    fallback,
                    ..DisaggregationPolicy::of(dialect)
                };
                let read = DisaggregationPolicy::try_from(v1::Disaggregation::from(&policy));
                assert_eq!(read, Ok(policy));
            }
        }
    }

    #[test]
    fn a_dialect_of_a_newer_release_is_refused_by_name() {
        let wire = v1::Disaggregation {
            dialect: 99,
            bootstrap_port: 1,
            ..v1::Disaggregation::default()
        };
        let error = DisaggregationPolicy::try_from(wire).expect_err("not known");
        assert!(error.to_string().contains("dialect"), "{error}");
    }
}
