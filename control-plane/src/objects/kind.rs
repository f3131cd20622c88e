//! The kinds of objects that are configuration.

use kube::core::{ApiResource, GroupVersionKind};

use crate::gateway_api::GATEWAY_GROUP;

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
    /// `GatewayClass`.
    GatewayClass,
    /// `Gateway`.
    Gateway,
    /// `HTTPRoute`.
    Route,
    /// `ReferenceGrant`.
    Grant,
    /// `ReferenceGrant` of the version before.
    EarlierGrant,
    /// `Namespace`, of which labels count.
    Namespace,
    /// `Service`.
    Service,
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
    pub(crate) const ALL: [Self; 14] = [
        Self::Pool,
        Self::EarlierPool,
        Self::Model,
        Self::Objective,
        Self::EarlierObjective,
        Self::Rewrite,
        Self::EarlierRewrite,
        Self::GatewayClass,
        Self::Gateway,
        Self::Route,
        Self::Grant,
        Self::EarlierGrant,
        Self::Namespace,
        Self::Service,
    ];

    /// Whether it is for Gateways and their routes, and not of the Inference Extension.
    pub(crate) const fn is_of_gateways(self) -> bool {
        matches!(
            self,
            Self::GatewayClass
                | Self::Gateway
                | Self::Route
                | Self::Grant
                | Self::EarlierGrant
                | Self::Namespace
                | Self::Service
        )
    }

    /// Its name, such as `InferencePool`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pool | Self::EarlierPool => "InferencePool",
            Self::Model => "InferenceModel",
            Self::Objective | Self::EarlierObjective => "InferenceObjective",
            Self::Rewrite | Self::EarlierRewrite => "InferenceModelRewrite",
            Self::GatewayClass => "GatewayClass",
            Self::Gateway => "Gateway",
            Self::Route => "HTTPRoute",
            Self::Grant | Self::EarlierGrant => "ReferenceGrant",
            Self::Namespace => "Namespace",
            Self::Service => "Service",
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
            Self::GatewayClass | Self::Gateway | Self::Route | Self::Grant | Self::EarlierGrant => {
                GATEWAY_GROUP
            }
            Self::Namespace | Self::Service => "",
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
            Self::GatewayClass => "gatewayclasses.gateway.networking.k8s.io",
            Self::Gateway => "gateways.gateway.networking.k8s.io",
            Self::Route => "httproutes.gateway.networking.k8s.io",
            Self::Grant | Self::EarlierGrant => "referencegrants.gateway.networking.k8s.io",
            Self::Namespace => "namespaces",
            Self::Service => "services",
        }
    }

    /// How the API server is asked for it.
    pub(crate) fn resource(self) -> ApiResource {
        let version = match self {
            Self::Pool
            | Self::GatewayClass
            | Self::Gateway
            | Self::Route
            | Self::Grant
            | Self::Namespace
            | Self::Service => "v1",
            Self::EarlierGrant => "v1beta1",
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

    /// Whether the controllers of Gateways write parts of its status.
    pub(crate) const fn has_gateway_status(self) -> bool {
        matches!(
            self,
            Self::GatewayClass | Self::Gateway | Self::Route | Self::Pool | Self::EarlierPool
        )
    }

    /// Whether its objects are in no namespace.
    pub(crate) const fn is_cluster_wide(self) -> bool {
        matches!(self, Self::GatewayClass | Self::Namespace)
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
            let name = kind.name().to_lowercase();
            let ending = if name.ends_with('s') { "es" } else { "s" };
            let plural = format!("{name}{ending}");
            assert_eq!(resource.plural, plural);
            let definition = format!("{plural}.{}", kind.group());
            // The core group has no name.
            assert_eq!(kind.definition(), definition.trim_end_matches('.'));
        }
    }
}
