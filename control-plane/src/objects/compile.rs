//! From objects to pools: which pools there are, and what the objects that refer to them add. Pure.
//!
//! ```text
//!   InferencePool ─────────────┬─▶ PoolFragment namespace/name
//!   InferenceModel ────────────┤     rewrites: of InferenceModelRewrites, then of InferenceModels
//!   InferenceModelRewrite ─────┤     priorities of models, objectives
//!   InferenceObjective ────────┘     pickers
//! ```
//!
//! Of two objects that conflict the older one counts, and the first by name where both are equally
//! old. Of two of one kind and name in both groups, the one of the newer group counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hermes_core::{
    inference_pool::{AskedPicker, ModelPriority, Objective},
    rewrites::ModelRewrite,
};

use super::{
    catalog::{CatalogEntry, ObjectCatalog, ObjectKey, ObjectSpec, reference},
    condition::AcceptedCondition,
    kind::ObjectKind,
    model::InferenceModel,
    pool::InferencePool,
    status::{StatusBoard, StatusEntry},
    verdict::{ObjectVerdict, RefusalReason},
};
use crate::{
    config::{InferencePoolsConfig, ObjectPool, PoolFragment},
    gateway_api::NamespacedName,
};

/// What the objects mean together.
#[derive(Debug, Default)]
pub(crate) struct CompiledObjects {
    /// A fragment for each pool, by name.
    pub(crate) fragments: Vec<PoolFragment>,
    /// What became of each object.
    pub(crate) verdicts: BTreeMap<ObjectKey, ObjectVerdict>,
    /// What the status of objects should say, where it is for this router to say.
    pub(crate) statuses: StatusBoard,
}

/// A pool while its parts are collected.
struct PoolDraft<'a> {
    key: &'a ObjectKey,
    pool: &'a InferencePool,
    /// The picker of another router, if that chooses its endpoints.
    asked_picker: Option<AskedPicker>,
    /// In order of precedence.
    rewrites: Vec<ModelRewrite>,
    priorities: Vec<ModelPriority>,
    objectives: BTreeMap<Arc<str>, i32>,
    /// Those that have an `InferenceModel`.
    models: BTreeSet<Arc<str>>,
}

/// Pools of other pickers that are served, with how their picker is asked.
pub(crate) type AdoptedPools = BTreeMap<NamespacedName, AskedPicker>;

/// Pools by namespace and name.
type Pools<'a> = BTreeMap<(&'a str, &'a str), PoolDraft<'a>>;

// === Compiling ===

/// Compiles all objects. `adopted` are pools of other pickers that are served nevertheless, with their
/// picker asked.
pub(crate) fn compile(
    catalog: &ObjectCatalog,
    config: &InferencePoolsConfig,
    adopted: &AdoptedPools,
) -> CompiledObjects {
    let mut verdicts = BTreeMap::new();
    let mut pools = pools(catalog, config, adopted, &mut verdicts);
    // The rewrites first: their kind is the newer one.
    for kinds in [
        &[ObjectKind::Rewrite, ObjectKind::EarlierRewrite][..],
        &[ObjectKind::Model],
        &[ObjectKind::Objective, ObjectKind::EarlierObjective],
    ] {
        add(catalog, kinds, &mut pools, &mut verdicts);
    }
    let fragments = pools.into_values().map(|parts| parts.fragment(config));
    let fragments = fragments.collect();
    let statuses = if config.write_status {
        statuses(catalog, &verdicts)
    } else {
        StatusBoard::new()
    };
    CompiledObjects {
        fragments,
        verdicts,
        statuses,
    }
}

/// What objects should say of themselves. The status of a pool is for gateways to write: it has a
/// part for each gateway, and none for a picker.
fn statuses(catalog: &ObjectCatalog, verdicts: &BTreeMap<ObjectKey, ObjectVerdict>) -> StatusBoard {
    let of_object = |(key, entry): (&ObjectKey, &CatalogEntry)| {
        let (
            ObjectKind::Model
            | ObjectKind::Objective
            | ObjectKind::EarlierObjective
            | ObjectKind::Rewrite
            | ObjectKind::EarlierRewrite,
            ..,
        ) = key
        else {
            return None;
        };
        let wanted = AcceptedCondition::of(verdicts.get(key)?, entry.generation)?;
        let status = StatusEntry::Accepted {
            wanted,
            observed: entry.observed.clone(),
        };
        Some((key.clone(), status))
    };
    catalog.iter().filter_map(of_object).collect()
}

/// The pools that this router serves.
fn pools<'a>(
    catalog: &'a ObjectCatalog,
    config: &InferencePoolsConfig,
    adopted: &AdoptedPools,
    verdicts: &mut BTreeMap<ObjectKey, ObjectVerdict>,
) -> Pools<'a> {
    let mut pools = Pools::new();
    for (key, entry) in catalog.iter() {
        let (ObjectKind::Pool | ObjectKind::EarlierPool, namespace, name) = key else {
            continue;
        };
        let Some(ObjectSpec::Pool(pool)) = entry.spec() else {
            verdicts.insert(key.clone(), entry.unusable());
            continue;
        };
        let verdict = if pools.contains_key(&(&**namespace, &**name)) {
            ObjectVerdict::superseded(key.0)
        } else {
            let asked = adopted.get(&NamespacedName::new(namespace, name));
            if is_foreign(pool, config) && asked.is_none() {
                ObjectVerdict::Foreign
            } else {
                let draft = PoolDraft::new(key, pool, asked.cloned());
                pools.insert((namespace, name), draft);
                entry.verdict()
            }
        };
        verdicts.insert(key.clone(), verdict);
    }
    pools
}

/// Whether a pool refers to the picker of another router.
pub(super) fn is_foreign(pool: &InferencePool, config: &InferencePoolsConfig) -> bool {
    let ours = &config.pickers;
    let is_ours = pool.picker.as_ref().is_none_or(|picker| {
        ours.iter()
            .any(|own| own.is(&picker.namespace, &picker.service))
    });
    !ours.is_empty() && !is_ours
}

/// Adds the objects of these kinds to their pools, the oldest first.
fn add<'a>(
    catalog: &'a ObjectCatalog,
    kinds: &[ObjectKind],
    pools: &mut Pools<'a>,
    verdicts: &mut BTreeMap<ObjectKey, ObjectVerdict>,
) {
    let mut objects: Vec<_> = catalog
        .iter()
        .filter(|((kind, ..), _)| kinds.contains(kind))
        .collect();
    let named: BTreeSet<&ObjectKey> = objects.iter().map(|(key, _)| *key).collect();
    let is_superseded = |(kind, namespace, name): &ObjectKey| {
        let mut stronger = kinds.iter().take_while(|of| *of != kind);
        stronger.any(|of| {
            let key = (*of, Arc::clone(namespace), Arc::clone(name));
            named.contains(&key)
        })
    };
    objects.sort_by(|(one, first), (other, second)| {
        let age = |entry: &CatalogEntry| (entry.created.is_none(), entry.created);
        let by_name = |key: &ObjectKey| (Arc::clone(&key.1), Arc::clone(&key.2));
        age(first)
            .cmp(&age(second))
            .then_with(|| by_name(one).cmp(&by_name(other)))
    });
    for (key, entry) in objects {
        let verdict = if is_superseded(key) {
            ObjectVerdict::superseded(key.0)
        } else {
            match entry.spec() {
                None => entry.unusable(),
                Some(spec) => pool_of(pools, key, spec).map_or(ObjectVerdict::Foreign, |pool| {
                    pool.add(key, spec).unwrap_or_else(|| entry.verdict())
                }),
            }
        };
        verdicts.insert(key.clone(), verdict);
    }
}

fn pool_of<'p, 'a>(
    pools: &'p mut Pools<'a>,
    (_, namespace, _): &'a ObjectKey,
    spec: &'a ObjectSpec,
) -> Option<&'p mut PoolDraft<'a>> {
    let pool: &'a str = spec.pool()?;
    let draft = pools.get_mut(&(&**namespace, pool));
    // The picker that is asked reads the objects of its pool itself.
    draft.filter(|draft| draft.asked_picker.is_none())
}

// === PoolDraft ===

impl<'a> PoolDraft<'a> {
    fn new(key: &'a ObjectKey, pool: &'a InferencePool, asked_picker: Option<AskedPicker>) -> Self {
        Self {
            key,
            pool,
            asked_picker,
            rewrites: Vec::new(),
            priorities: Vec::new(),
            objectives: BTreeMap::new(),
            models: BTreeSet::new(),
        }
    }

    /// Adds what an object says. Returns why it does not count.
    fn add(&mut self, (_, _, name): &ObjectKey, spec: &ObjectSpec) -> Option<ObjectVerdict> {
        match spec {
            ObjectSpec::Pool(_)
            | ObjectSpec::GatewayClass(_)
            | ObjectSpec::Gateway(_)
            | ObjectSpec::Route(_)
            | ObjectSpec::Grant(_)
            | ObjectSpec::Namespace(_)
            | ObjectSpec::Service(_) => {}
            ObjectSpec::Rewrite(rewrite) => self.rewrites.extend_from_slice(&rewrite.rewrites),
            ObjectSpec::Objective(objective) => {
                self.objectives.insert(Arc::clone(name), objective.priority);
            }
            ObjectSpec::Model(model) => return self.add_model(model),
        }
        None
    }

    /// The oldest object of a model counts. Its targets are rewrites like others, after those of
    /// the newer kind.
    fn add_model(
        &mut self,
        InferenceModel {
            model,
            priority,
            targets,
            ..
        }: &InferenceModel,
    ) -> Option<ObjectVerdict> {
        if !self.models.insert(Arc::clone(model)) {
            return Some(ObjectVerdict::Refused {
                reason: RefusalReason::ModelNameInUse,
                message: format!("an older InferenceModel of the pool is for the model {model}"),
            });
        }
        self.priorities.push(ModelPriority {
            model: Arc::clone(model),
            priority: *priority,
        });
        let rewrite = ModelRewrite {
            model: Some(Arc::clone(model)),
            targets: Arc::clone(targets),
        };
        let is_rewritten = self
            .rewrites
            .iter()
            .any(|earlier| earlier.model == rewrite.model);
        self.rewrites.push(rewrite);
        is_rewritten.then(|| {
            let note = "its targets are not in use: an InferenceModelRewrite is for the same model";
            ObjectVerdict::Accepted(Some(note.to_owned()))
        })
    }

    fn fragment(self, config: &InferencePoolsConfig) -> PoolFragment {
        let Self {
            key,
            pool,
            asked_picker,
            rewrites,
            priorities,
            objectives,
            models: _,
        } = self;
        let objective = |(name, priority)| Objective { name, priority };
        let (port, further) = pool.ports.split_first().unwrap_or((&0, &[]));
        config.fragment(
            reference(key),
            ObjectPool {
                labels: pool.labels.clone(),
                port: *port,
                further_ports: further.to_vec(),
                wants_prefix_cache: pool.wants_prefix_cache,
                engine: pool.engine,
                pickers: pool.picker.iter().cloned().collect(),
                asked_picker,
                http2: pool.http2,
                rewrites,
                priorities,
                objectives: objectives.into_iter().map(objective).collect(),
            },
        )
    }
}

// === CatalogEntry ===

impl CatalogEntry {
    /// What becomes of an object that is in use.
    pub(super) fn verdict(&self) -> ObjectVerdict {
        let Some((in_use, _)) = &self.usable else {
            return self.unusable();
        };
        if self.faults.is_empty() {
            return ObjectVerdict::Accepted(None);
        }
        if self.is_newest_usable {
            return ObjectVerdict::Accepted(Some(format!("in use except for: {}", self.faults)));
        }
        ObjectVerdict::Refused {
            reason: RefusalReason::Invalid,
            message: format!("generation {in_use} stays in use: {}", self.faults),
        }
    }

    pub(super) fn unusable(&self) -> ObjectVerdict {
        ObjectVerdict::Refused {
            reason: RefusalReason::Unreadable,
            message: self.faults.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
