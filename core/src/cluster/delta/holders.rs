//! What happened to one model. Its holders may be thousands, so their changes travel alone.

use std::{cmp::Ordering, sync::Arc};

use crate::{
    collection::{ValueChange, WrongBase},
    snapshot::{EndpointId, Model, ModelHolders},
};

/// What happened to one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelDelta {
    /// It is new, or more than its holders changed.
    Whole(Arc<Model>),
    /// Only its holders changed.
    Holders(HoldersDelta),
}

/// What happened to the list of endpoints in a model's [`ModelHolders`]: of those that hold it, or
/// of those that do not, as before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldersDelta {
    /// The model's name.
    pub model: Arc<str>,
    /// Endpoints that are new in the list, sorted.
    pub added: Vec<EndpointId>,
    /// Endpoints that are gone from the list, sorted.
    pub removed: Vec<EndpointId>,
}

// === ModelDelta ===

impl ValueChange for ModelDelta {
    type Value = Model;

    fn between(old: Option<&Arc<Model>>, new: &Arc<Model>) -> Option<Self> {
        let Some(old) = old else {
            return Some(Self::Whole(Arc::clone(new)));
        };
        if Arc::ptr_eq(old, new) || old == new {
            return None;
        }
        let holders = HoldersDelta::between(old, new);
        Some(holders.map_or_else(|| Self::Whole(Arc::clone(new)), Self::Holders))
    }

    fn key(&self) -> &Arc<str> {
        match self {
            Self::Whole(model) => &model.name,
            Self::Holders(delta) => &delta.model,
        }
    }

    fn apply(&self, base: Option<&Arc<Model>>) -> Result<Arc<Model>, WrongBase> {
        match self {
            Self::Whole(model) => Ok(Arc::clone(model)),
            Self::Holders(delta) => match base {
                Some(base) => delta.apply(base),
                None => Err(WrongBase::missing::<Model>(&delta.model)),
            },
        }
    }
}

// === HoldersDelta ===

impl HoldersDelta {
    /// The change of the list, if only the list changed, and by less than its length.
    fn between(old: &Model, new: &Model) -> Option<Self> {
        let ((ModelHolders::Some(before), ModelHolders::Some(after))
        | (ModelHolders::Except(before), ModelHolders::Except(after))) =
            (&old.holders, &new.holders)
        else {
            return None;
        };
        let is_same_otherwise = Model {
            holders: old.holders.clone(),
            ..new.clone()
        } == *old;
        let (added, removed) = differences(before, after);
        let is_less = added.len() + removed.len() < after.len();
        (is_same_otherwise && is_less).then(|| Self {
            model: Arc::clone(&new.name),
            added,
            removed,
        })
    }

    fn apply(&self, base: &Model) -> Result<Arc<Model>, WrongBase> {
        let edited = match &base.holders {
            ModelHolders::Some(ids) => self.edited(ids).map(ModelHolders::Some),
            ModelHolders::Except(ids) => self.edited(ids).map(ModelHolders::Except),
            ModelHolders::All => None,
        };
        let holders = edited.ok_or_else(|| WrongBase::different::<Model>(&self.model))?;
        Ok(Arc::new(Model {
            holders,
            ..base.clone()
        }))
    }

    /// `None` when the list has what is added, or lacks what is removed.
    fn edited(&self, ids: &[EndpointId]) -> Option<Arc<[EndpointId]>> {
        let is_kept = |id: &&EndpointId| self.removed.binary_search(id).is_err();
        let kept: Vec<EndpointId> = ids.iter().filter(is_kept).copied().collect();
        let removes_all = kept.len() + self.removed.len() == ids.len();
        let mut edited = [kept, self.added.clone()].concat();
        edited.sort_unstable();
        let is_new = edited.is_sorted_by(|a, b| a < b);
        (removes_all && is_new).then(|| edited.into())
    }
}

/// What `after` has besides, and what `before` had besides; both are sorted.
fn differences(before: &[EndpointId], after: &[EndpointId]) -> (Vec<EndpointId>, Vec<EndpointId>) {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (before, after);
    while let ([was, later @ ..], [is, next @ ..]) = (old, new) {
        match was.cmp(is) {
            Ordering::Less => removed.push(*was),
            Ordering::Equal => {}
            Ordering::Greater => added.push(*is),
        }
        old = if was <= is { later } else { old };
        new = if is <= was { next } else { new };
    }
    removed.extend(old);
    added.extend(new);
    (added, removed)
}
