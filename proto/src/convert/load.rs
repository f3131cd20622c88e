//! Load rows.

use hermes_core::load::{EngineSample, Health, Load};

use super::Invalid;
use crate::v1::{self, health::State};

// === EndpointLoad ===

/// The fleet's load of one endpoint; `own` is the part of it that the receiving proxy caused.
impl v1::EndpointLoad {
    /// A row as it is sent.
    #[must_use]
    pub fn row(
        endpoint: hermes_core::snapshot::EndpointId,
        fleet: &Load,
        own_in_flight: u32,
        own_pending: u64,
    ) -> Self {
        let Load {
            in_flight,
            pending_tokens,
            sample,
            health,
        } = *fleet;
        Self {
            endpoint: endpoint.0,
            in_flight,
            own_in_flight,
            pending_tokens,
            own_pending_tokens: own_pending,
            sample: sample.map(Into::into),
            health: Some(health.into()),
        }
    }
}

impl TryFrom<&v1::EndpointLoad> for Load {
    type Error = Invalid;

    /// The load that *others* cause: the receiver adds its own, which it knows better.
    fn try_from(wire: &v1::EndpointLoad) -> Result<Self, Invalid> {
        Ok(Self {
            in_flight: wire.in_flight.saturating_sub(wire.own_in_flight),
            pending_tokens: wire.pending_tokens.saturating_sub(wire.own_pending_tokens),
            sample: wire.sample.map(EngineSample::try_from).transpose()?,
            health: wire.health.map_or(Ok(Health::Up), Health::try_from)?,
        })
    }
}

// === Sample ===

impl From<EngineSample> for v1::Sample {
    fn from(sample: EngineSample) -> Self {
        let EngineSample {
            waiting,
            running,
            kv_usage,
        } = sample;
        Self {
            waiting,
            running,
            kv_usage,
        }
    }
}

impl TryFrom<v1::Sample> for EngineSample {
    type Error = Invalid;

    fn try_from(wire: v1::Sample) -> Result<Self, Invalid> {
        let v1::Sample {
            waiting,
            running,
            kv_usage,
        } = wire;
        if kv_usage.is_some_and(|usage| !(0.0..=1.0).contains(&usage)) {
            return Err(Invalid::new("sample.kv_usage", "must be within 0..=1"));
        }
        Ok(Self {
            waiting,
            running,
            kv_usage,
        })
    }
}

// === Health ===

impl From<Health> for v1::Health {
    fn from(health: Health) -> Self {
        let state = match health {
            Health::Up => None,
            Health::Warming(share) => Some(State::Warming(share)),
            Health::Down => Some(State::Down(true)),
        };
        Self { state }
    }
}

impl TryFrom<v1::Health> for Health {
    type Error = Invalid;

    fn try_from(wire: v1::Health) -> Result<Self, Invalid> {
        match wire.state {
            None => Ok(Self::Up),
            Some(State::Down(_)) => Ok(Self::Down),
            Some(State::Warming(share)) if (0.0..=1.0).contains(&share) => Ok(Self::Warming(share)),
            Some(State::Warming(_)) => Err(Invalid::new("health.warming", "must be within 0..=1")),
        }
    }
}
