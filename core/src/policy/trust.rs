//! Whose signature on an endpoint's certificate counts.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

/// The authorities that may sign the certificates of a pool's endpoints.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum EndpointTrust {
    /// Those of the machine that the process runs on.
    #[default]
    System,
    /// These, and no others: certificates in PEM, which are public.
    Authorities(Arc<str>),
}

impl EndpointTrust {
    /// Longest list of authorities in bytes of PEM: some fifty certificates. It is part of every
    /// pool that a snapshot has.
    pub const MAX_BYTES: usize = 64 << 10;

    /// The authorities in PEM; `None` for those of the machine.
    #[must_use]
    pub fn authorities(&self) -> Option<&Arc<str>> {
        match self {
            Self::System => None,
            Self::Authorities(pem) => Some(pem),
        }
    }
}

/// The size and a hash of the text, which identify it and fit on a line.
impl fmt::Display for EndpointTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Authorities(pem) => {
                write!(f, "{} bytes, {:016x}", pem.len(), xxh3_64(pem.as_bytes()))
            }
        }
    }
}

impl fmt::Debug for EndpointTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for EndpointTrust {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
