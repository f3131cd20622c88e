//! Scenarios and properties of [`Collection`] and [`CollectionDelta`].

use std::collections::BTreeMap;

use proptest::{collection::btree_map, prelude::*};

use super::*;

/// A value with a key.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    key: u8,
    value: u8,
}

impl Keyed for Entry {
    type Key = u8;
    const KIND: &'static str = "entry";

    fn key(&self) -> &u8 {
        &self.key
    }
}

type EntryDelta = CollectionDelta<u8, Arc<Entry>>;

fn entry(key: u8, value: u8) -> Arc<Entry> {
    Arc::new(Entry { key, value })
}

fn collection(entries: &BTreeMap<u8, u8>) -> Collection<Entry> {
    entries
        .iter()
        .map(|(&key, &value)| entry(key, value))
        .collect()
}

fn keys(collection: &Collection<Entry>) -> Vec<u8> {
    collection.iter().map(|entry| entry.key).collect()
}

#[test]
fn a_collection_is_sorted_and_the_last_value_of_a_key_stays() {
    let made: Collection<Entry> = vec![entry(3, 0), entry(1, 0), entry(3, 1)].into();
    assert_eq!(keys(&made), [1, 3]);
    assert_eq!(made.find(&3).map(|entry| entry.value), Some(1));
    assert_eq!((made.position(&1), made.position(&2)), (Some(0), None));
}

#[test]
fn values_that_did_not_change_are_shared_and_an_empty_delta_shares_the_list() {
    let old: Collection<Entry> = (0..100).map(|key| entry(key, 0)).collect();
    let delta = EntryDelta::new(vec![entry(50, 1)], vec![70]).expect("it is sorted");
    let new = delta.apply(&old).expect("it was made for this one");
    let is_shared =
        |key: u8| Arc::ptr_eq(&old[usize::from(key)], new.find(&key).expect("it is there"));
    assert!(
        (0..100)
            .filter(|key| *key != 70)
            .all(|key| is_shared(key) == (key != 50))
    );
    assert_eq!(EntryDelta::between(&old, &new), delta);
    assert!(
        EntryDelta::default()
            .apply(&old)
            .expect("it fits any")
            .is_shared_with(&old)
    );
}

#[test]
fn lists_that_are_out_of_order_or_have_a_key_twice_are_no_delta() {
    let refused = |set: &[u8], gone: &[u8]| {
        let set = set.iter().map(|&key| entry(key, 0)).collect();
        let refused = EntryDelta::new(set, gone.to_vec()).expect_err("it is refused");
        (refused.list, refused.index)
    };
    assert_eq!(refused(&[1, 3, 2], &[]), ("set", 2));
    assert_eq!(refused(&[1, 1], &[]), ("set", 1));
    assert_eq!(refused(&[], &[2, 2]), ("gone", 1));
    assert_eq!(
        refused(&[1, 2], &[0, 2]),
        ("gone", 1),
        "set and gone at once"
    );
}

#[test]
fn a_key_that_is_gone_must_have_been_there() {
    let delta = EntryDelta::new(Vec::new(), vec![2]).expect("it is sorted");
    let missing = WrongBase::Missing {
        kind: "entry",
        key: "2".into(),
    };
    assert_eq!(delta.apply(&vec![entry(1, 0)].into()), Err(missing));
}

#[test]
fn a_value_that_is_equal_to_the_old_one_is_replaced_by_it() {
    let old = entry(1, 0);
    assert!(Arc::ptr_eq(
        &shared::<Arc<Entry>>(Some(&old), entry(1, 0)),
        &old
    ));
    assert_eq!(shared::<Arc<Entry>>(Some(&old), entry(1, 1)), entry(1, 1));
}

proptest! {
    #[test]
    fn applying_the_difference_makes_the_new_collection(
        old in btree_map(0..40u8, 0..3u8, 0..30),
        new in btree_map(0..40u8, 0..3u8, 0..30),
    ) {
        let (before, after) = (collection(&old), collection(&new));
        let delta = EntryDelta::between(&before, &after);
        let made = delta.apply(&before);
        prop_assert_eq!(made.as_ref(), Ok(&after));
        let changed = new.iter().filter(|(key, value)| old.get(key) != Some(value));
        prop_assert_eq!(delta.set().len(), changed.count(), "only what differs is set");
        let gone = old.keys().filter(|key| !new.contains_key(key));
        prop_assert_eq!(delta.gone().len(), gone.count());
        prop_assert_eq!(EntryDelta::new(delta.set().to_vec(), delta.gone().to_vec()), Ok(delta));
    }

    #[test]
    fn any_lists_are_refused_or_make_a_sorted_collection(
        base in btree_map(0..12u8, 0..3u8, 0..8),
        set in proptest::collection::vec((0..12u8, 0..3u8), 0..4),
        gone in proptest::collection::vec(0..12u8, 0..4),
    ) {
        let set = set.into_iter().map(|(key, value)| entry(key, value)).collect();
        let made = EntryDelta::new(set, gone).map(|delta| delta.apply(&collection(&base)));
        if let Ok(Ok(made)) = made {
            prop_assert!(keys(&made).is_sorted_by(|a, b| a < b));
        }
    }
}
