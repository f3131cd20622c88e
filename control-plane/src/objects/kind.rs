//! The kinds of objects that are configuration.

use kube::core::{ApiResource, GroupVersionKind};

/// A kind in one API group. Of two objects of one name, the one whose kind stands first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectKind {
    /// `InferencePool` of the stable group.
    Pool,
    /// `InferencePool` as it was before.
    EarlierPool,
    /// `InferenceModel`, which the stable group has not.
    Model,
    /// `InferenceObjective`.
    Objective,
    /// `InferenceObjective` of the group that had it before.
    EarlierObjective,
    /// `InferenceModelRewrite`.
    Rewrite,
    /// `InferenceModelRewrite` of the group that had it before.
    EarlierRewrite,
}

/// The stable group of pools.
const STABLE: &str = "inference.networking.k8s.io";

/// The group of everything before.
const EARLIER: &str = "inference.networking.x-k8s.io";

/// The group that objectives and rewrites have moved to.
const LLM_D: &str = "llm-d.ai";

// === ObjectKind ===

impl ObjectKind {
    /// Each kind.
    pub(crate) const ALL: [Self; 7] = [
        Self::Pool,
        Self::EarlierPool,
        Self::Model,
        Self::Objective,
        Self::EarlierObjective,
        Self::Rewrite,
        Self::EarlierRewrite,
    ];

    /// Its name, such as `InferencePool`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pool | Self::EarlierPool => "InferencePool",
            Self::Model => "InferenceModel",
            Self::Objective | Self::EarlierObjective => "InferenceObjective",
            Self::Rewrite | Self::EarlierRewrite => "InferenceModelRewrite",
        }
    }

    /// Its API group.
    pub(crate) const fn group(self) -> &'static str {
        match self {
            Self::Pool => STABLE,
            Self::EarlierPool | Self::Model | Self::EarlierObjective | Self::EarlierRewrite => {
                EARLIER
            }
            Self::Objective | Self::Rewrite => LLM_D,
        }
    }

    /// Its plural and its group, as the API server names the definition.
    pub(crate) const fn definition(self) -> &'static str {
        match self {
            Self::Pool => "inferencepools.inference.networking.k8s.io",
            Self::EarlierPool => "inferencepools.inference.networking.x-k8s.io",
            Self::Model => "inferencemodels.inference.networking.x-k8s.io",
            Self::Objective => "inferenceobjectives.llm-d.ai",
            Self::EarlierObjective => "inferenceobjectives.inference.networking.x-k8s.io",
            Self::Rewrite => "inferencemodelrewrites.llm-d.ai",
            Self::EarlierRewrite => "inferencemodelrewrites.inference.networking.x-k8s.io",
        }
    }

    /// How the API server is asked for it.
    pub(crate) fn resource(self) -> ApiResource {
        let version = match self {
            Self::Pool => "v1",
            Self::EarlierPool
            | Self::Model
            | Self::Objective
            | Self::EarlierObjective
            | Self::Rewrite
            | Self::EarlierRewrite => "v1alpha2",
        };
        let kind = GroupVersionKind::gvk(self.group(), version, self.name());
        let plural = self.definition().split('.').next().unwrap_or_default();
        ApiResource::from_gvk_with_plural(&kind, plural)
    }

    /// Whether `group` may have the pools that objects refer to.
    pub(crate) fn is_pool_group(group: &str) -> bool {
        matches!(group, STABLE | EARLIER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_is_the_plural_and_the_group() {
        for kind in ObjectKind::ALL {
            let resource = kind.resource();
            let plural = format!("{}s", kind.name().to_lowercase());
            assert_eq!(resource.plural, plural);
            assert_eq!(kind.definition(), format!("{plural}.{}", kind.group()));
        }
    }
}
