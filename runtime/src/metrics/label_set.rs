//! Closed sets of label values: an enum whose variants carry their names.

use std::{
    marker::PhantomData,
    ops::{Index, IndexMut},
};

/// All values that one label can have. Implemented by [`label_set!`](crate::label_set).
pub trait LabelSet: Copy + 'static {
    /// Every value, in the order of the variants.
    const ALL: &'static [Self];

    /// The position in [`ALL`](Self::ALL).
    fn index(self) -> usize;
}

/// Declares a closed set of label values: the enum, its names, and its encoding as a label.
///
/// The enum has `name()`, implements [`LabelSet`], and can be a field of a struct that derives
/// `EncodeLabelSet`. The calling crate depends on `prometheus-client`.
///
/// ```
/// hermes_runtime::label_set! {
///     /// How a lookup ended.
///     pub enum LookupOutcome {
///         /// Something was found.
///         Hit = "hit",
///         /// Nothing was found.
///         Miss = "miss",
///     }
/// }
/// assert_eq!(LookupOutcome::Miss.name(), "miss");
/// ```
#[macro_export]
macro_rules! label_set {
    ($(#[$meta:meta])* $vis:vis enum $set:ident { $($(#[$doc:meta])* $value:ident = $name:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        $vis enum $set {
            $($(#[$doc])* $value,)+
        }

        impl $set {
            /// The label value.
            #[must_use]
            $vis const fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)+
                }
            }
        }

        impl $crate::metrics::LabelSet for $set {
            const ALL: &'static [Self] = &[$(Self::$value),+];

            fn index(self) -> usize {
                self as usize
            }
        }

        impl ::prometheus_client::encoding::EncodeLabelValue for $set {
            fn encode(
                &self,
                encoder: &mut ::prometheus_client::encoding::LabelValueEncoder<'_>,
            ) -> ::std::fmt::Result {
                ::std::fmt::Write::write_str(encoder, self.name())
            }
        }
    };
}

/// One item, such as a metric handle, for each value of a label: counting is then an array access.
#[derive(Clone, Debug)]
pub struct PerValue<V, M> {
    /// In the order of [`LabelSet::ALL`].
    items: Box<[M]>,
    values: PhantomData<fn(V)>,
}

// === PerValue ===

impl<V: LabelSet, M> PerValue<V, M> {
    /// Makes the item of each value.
    pub fn new(item: impl FnMut(V) -> M) -> Self {
        Self {
            items: V::ALL.iter().copied().map(item).collect(),
            values: PhantomData,
        }
    }
}

impl<V: LabelSet, M> Index<V> for PerValue<V, M> {
    type Output = M;

    fn index(&self, value: V) -> &M {
        &self.items[value.index()]
    }
}

impl<V: LabelSet, M> IndexMut<V> for PerValue<V, M> {
    fn index_mut(&mut self, value: V) -> &mut M {
        &mut self.items[value.index()]
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        encoding::EncodeLabelSet,
        metrics::{counter::Counter, family::Family},
        registry::Registry,
    };

    use super::*;
    use crate::metrics::{Exposition, family};

    label_set! {
        /// How a lookup ended.
        enum LookupOutcome {
            /// Found.
            Hit = "hit",
            /// Not found.
            Miss = "not_found",
        }
    }

    #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct Labels {
        outcome: LookupOutcome,
    }

    #[test]
    fn each_value_counts_in_the_series_of_its_name() {
        let mut registry = Registry::default();
        let lookups: Family<Labels, Counter> = family(&mut registry, "lookups", "Lookups");
        let items = PerValue::new(|outcome| lookups.get_or_create_owned(&Labels { outcome }));
        items[LookupOutcome::Miss].inc_by(3);
        let text = Exposition::Prometheus.encode(&registry).expect("encodes");
        assert!(
            text.contains("lookups_total{outcome=\"hit\"} 0\n"),
            "{text}"
        );
        assert!(
            text.contains("lookups_total{outcome=\"not_found\"} 3\n"),
            "{text}"
        );
    }

    #[test]
    fn the_index_of_a_value_is_its_position() {
        for (position, value) in LookupOutcome::ALL.iter().enumerate() {
            assert_eq!(value.index(), position);
        }
    }
}
