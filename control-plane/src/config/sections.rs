//! Every key of the configuration file, declared once: name, type, range, default and meaning.
//!
//! The reader refuses what is not in these lists and takes ranges from them; `docs/configuration.md` is compared with
//! them by a test, and so are the documented defaults with the real ones.

mod caches;
mod original;
mod pool;
mod top;

use std::{iter, time::Duration};

pub(super) use self::{
    caches::{CONDUCTOR, KV_MANAGER, REGISTER, TOKENIZER},
    original::{APP, COLLECTOR, DISCOVERY, KVMANAGER},
    pool::{
        EJECTION, KUBERNETES, KV_EVENTS, METRICS, POOL, PREFIX, QUEUE, RETRY, STRATEGY, TIMEOUTS,
        WEIGHTS,
    },
    top::{LIMITS, TOP},
};

/// All sections, in the order of the documentation.
pub(super) static ALL: [&Section; 21] = [
    &TOP,
    &LIMITS,
    &POOL,
    &KUBERNETES,
    &STRATEGY,
    &WEIGHTS,
    &QUEUE,
    &METRICS,
    &KV_MANAGER,
    &KV_EVENTS,
    &CONDUCTOR,
    &REGISTER,
    &TOKENIZER,
    &TIMEOUTS,
    &RETRY,
    &EJECTION,
    &PREFIX,
    &APP,
    &DISCOVERY,
    &COLLECTOR,
    &KVMANAGER,
];

/// The keys of one mapping.
#[derive(Debug)]
pub(super) struct Section {
    /// Where it stands: `pools[].timeouts`.
    pub(super) path: &'static str,
    /// In the order of the documentation.
    pub(super) keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// Other spellings, accepted for compatibility.
    pub(super) also: &'static [&'static str],
    pub(super) kind: Kind,
    /// As one would type it; what is not a literal is in brackets.
    pub(super) default: &'static str,
    pub(super) meaning: &'static str,
}

/// What a value may be. Ranges include both ends.
#[derive(Debug)]
pub(super) enum Kind {
    Duration(Duration, Duration),
    /// Bytes.
    Size(u64, u64),
    Count(u32, u32),
    Number(f32, f32),
    Flag,
    /// Text; says what is right.
    Text(&'static str),
    OneOf(&'static [&'static str]),
    /// A list; says of what.
    List(&'static str),
    /// A mapping, or one of several forms; says which.
    Mapping(&'static str),
}

// === Section ===

impl Section {
    /// The key of this name.
    pub(super) fn key(&self, name: &str) -> &'static Key {
        self.keys
            .iter()
            .find(|key| key.name == name)
            .expect("a reader asks only for the keys of its section")
    }

    /// For a message: `connect, request, firstByte`.
    pub(super) fn names(&self) -> String {
        self.keys
            .iter()
            .map(|key| key.name)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

// === Key ===

impl Key {
    const fn new(
        name: &'static str,
        kind: Kind,
        default: &'static str,
        meaning: &'static str,
    ) -> Self {
        Self {
            name,
            also: &[],
            kind,
            default,
            meaning,
        }
    }

    const fn also(mut self, also: &'static [&'static str]) -> Self {
        self.also = also;
        self
    }

    /// Its name and its other spellings.
    pub(super) fn spellings(&self) -> impl Iterator<Item = &'static str> {
        iter::once(self.name).chain(self.also.iter().copied())
    }
}

// === Kind ===

impl Kind {
    /// For a message: "a duration from 1ms to 1m".
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Duration(..) => format!("a duration {}, such as 50ms, 2s or 1m30s", self.range()),
            Self::Size(..) => format!("a size {}, such as 64KiB or 65536", self.range()),
            Self::Count(..) => format!("a whole number {}", self.range()),
            Self::Number(..) => format!("a number {}", self.range()),
            Self::Flag => "true or false".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::Text(what) | Self::Mapping(what) => (*what).to_owned(),
            Self::List(what) => format!("a list of {what}"),
        }
    }

    /// For a message or a table: "from 1ms to 1m"; empty when there is none.
    pub(super) fn range(&self) -> String {
        match self {
            Self::Duration(min, max) => {
                format!(
                    "from {} to {}",
                    super::duration::display(*min),
                    super::duration::display(*max)
                )
            }
            Self::Size(min, max) => format!(
                "from {} to {}",
                super::size::display(*min),
                super::size::display(*max)
            ),
            Self::Count(min, max) => format!("from {min} to {max}"),
            Self::Number(min, max) => format!("from {min} to {max}"),
            Self::Flag | Self::Text(_) | Self::OneOf(_) | Self::List(_) | Self::Mapping(_) => {
                String::new()
            }
        }
    }
}

const fn millis(min: u64, max: u64) -> Kind {
    Kind::Duration(Duration::from_millis(min), Duration::from_millis(max))
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
