//! What identifies an open request, and each of its legs.

use serde::Serialize;

/// One run of one proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ProxyId(pub u64);

/// A request, numbered by its proxy; the same through all its legs and their attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RequestId(pub u64);

/// A request, fleet-wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RequestKey {
    /// Who serves it.
    pub proxy: ProxyId,
    /// Which of its requests.
    pub request: RequestId,
}

/// A leg of a request, numbered by its proxy from 0; less than [`LegId::COUNT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct LegId(u8);

/// A leg, fleet-wide: what a request asks of one endpoint at a time. A retry is the same leg at
/// another endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct LegKey {
    /// The request that it is a part of.
    pub request: RequestKey,
    /// Which of its legs.
    pub leg: LegId,
}

impl LegId {
    /// The only leg of a request, or the one whose answer the client gets, as the decode leg of a
    /// prefill/decode pair. The request ends with it.
    pub const MAIN: Self = Self(0);

    /// The prefill leg of a prefill/decode pair.
    pub const PREFILL: Self = Self(1);

    /// The most legs that a request may have.
    pub const COUNT: u32 = 4;

    /// The leg with this number; `None` from [`LegId::COUNT`] on.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number < Self::COUNT {
            Some(Self(number as u8))
        } else {
            None
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }
}

impl RequestKey {
    /// A leg of this request.
    #[must_use]
    pub const fn leg(self, leg: LegId) -> LegKey {
        LegKey { request: self, leg }
    }
}

impl From<RequestKey> for LegKey {
    /// The request's main leg.
    fn from(request: RequestKey) -> Self {
        request.leg(LegId::MAIN)
    }
}
