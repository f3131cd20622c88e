//! Wire ⇄ core, both ways, and nothing else.
//!
//! Into core by `TryFrom`, which checks everything that core takes for granted (sorted, unique, in
//! range); out of core by `From`, which cannot fail. One file per part of the contract.

mod address;
mod certificate;
mod cluster;
mod delta;
mod disaggregation;
mod history;
mod inference_pool;
mod listener;
mod load;
mod policy;
mod route;
mod score;
mod settings;

pub use delta::snapshot_to_wire;
pub use history::{ReplayedHistory, history_to_wire};
pub use score::{Answer, Ask, Candidate, Chosen, Queued};

/// Why a message cannot be used: which field, what is wrong with it, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Path of the field in the message, e.g. `content.pools.set[2].name`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub problem: &'static str,
}

// === Invalid ===

impl Invalid {
    fn new(field: &str, problem: &'static str) -> Self {
        Self {
            field: field.to_owned(),
            problem,
        }
    }

    /// The same mistake, seen from the message that contains the field.
    fn inside(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }

    /// The same mistake, seen from the list that contains the message.
    fn at(mut self, list: &str, index: usize) -> Self {
        self.field = format!("{list}[{index}].{}", self.field);
        self
    }
}

/// What is wrong with a key that breaks the order of its list.
const UNSORTED: &str =
    "is out of order or there twice; the list must be sorted and its keys unique";

/// The value of a field that must be set.
fn required<T>(value: Option<T>, field: &str) -> Result<T, Invalid> {
    value.ok_or_else(|| Invalid::new(field, "is missing"))
}

/// Converts a whole list, naming the item that fails.
fn each<W, C>(items: Vec<W>, list: &str) -> Result<Vec<C>, Invalid>
where
    C: TryFrom<W, Error = Invalid>,
{
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| C::try_from(item).map_err(|invalid| invalid.at(list, index)))
        .collect()
}

/// Refuses a list whose keys do not grow strictly.
fn sorted<T, K: PartialOrd>(items: &[T], list: &str, key: impl Fn(&T) -> K) -> Result<(), Invalid> {
    match items
        .windows(2)
        .position(|pair| key(&pair[0]) >= key(&pair[1]))
    {
        Some(index) => Err(Invalid {
            field: format!("{list}[{}]", index + 1),
            problem: UNSORTED,
        }),
        None => Ok(()),
    }
}
