//! What objects beside an inference pool say of it: pickers, rewrites and priorities.

use hermes_core::{
    inference_pool::{AskedPicker, ModelPriority, Objective, PickerFailure, PickerReference},
    rewrites::{ModelRewrite, RewriteTarget},
};

use super::{Invalid, cluster::port_number, each};
use crate::v1;

// === PickerReference ===

impl From<&PickerReference> for v1::PickerReference {
    fn from(reference: &PickerReference) -> Self {
        let PickerReference {
            namespace,
            service,
            port,
        } = reference;
        Self {
            namespace: namespace.to_string(),
            service: service.to_string(),
            port: (*port).into(),
        }
    }
}

impl TryFrom<v1::PickerReference> for PickerReference {
    type Error = Invalid;

    fn try_from(wire: v1::PickerReference) -> Result<Self, Invalid> {
        let v1::PickerReference {
            namespace,
            service,
            port,
        } = wire;
        Ok(Self {
            namespace: namespace.into(),
            service: service.into(),
            port: port_number(port, "port")?.get(),
        })
    }
}

// === AskedPicker ===

impl From<&AskedPicker> for v1::AskedPicker {
    fn from(picker: &AskedPicker) -> Self {
        let AskedPicker {
            authority,
            tls,
            on_failure,
        } = picker;
        Self {
            authority: authority.to_string(),
            tls: *tls,
            fails_open: *on_failure == PickerFailure::Open,
        }
    }
}

impl TryFrom<v1::AskedPicker> for AskedPicker {
    type Error = Invalid;

    fn try_from(wire: v1::AskedPicker) -> Result<Self, Invalid> {
        let v1::AskedPicker {
            authority,
            tls,
            fails_open,
        } = wire;
        let picker = Self {
            authority: authority.into(),
            tls,
            on_failure: if fails_open {
                PickerFailure::Open
            } else {
                PickerFailure::Close
            },
        };
        match picker.address() {
            Some(_) => Ok(picker),
            None => Err(Invalid::new("authority", "must be a host and a port")),
        }
    }
}

// === ModelRewrite ===

impl From<&ModelRewrite> for v1::ModelRewrite {
    fn from(ModelRewrite { model, targets }: &ModelRewrite) -> Self {
        Self {
            model: model.as_deref().map(str::to_owned),
            targets: targets.iter().map(v1::RewriteTarget::from).collect(),
        }
    }
}

impl TryFrom<v1::ModelRewrite> for ModelRewrite {
    type Error = Invalid;

    fn try_from(wire: v1::ModelRewrite) -> Result<Self, Invalid> {
        let v1::ModelRewrite { model, targets } = wire;
        if targets.is_empty() {
            return Err(Invalid::new(
                "targets",
                "is empty; a rewrite needs a target",
            ));
        }
        Ok(Self {
            model: model.map(Into::into),
            targets: each(targets, "targets")?.into(),
        })
    }
}

impl From<&RewriteTarget> for v1::RewriteTarget {
    fn from(RewriteTarget { model, weight }: &RewriteTarget) -> Self {
        Self {
            model: model.to_string(),
            weight: *weight,
        }
    }
}

impl TryFrom<v1::RewriteTarget> for RewriteTarget {
    type Error = Invalid;

    fn try_from(wire: v1::RewriteTarget) -> Result<Self, Invalid> {
        let v1::RewriteTarget { model, weight } = wire;
        if model.is_empty() {
            return Err(Invalid::new("model", "is empty; a target needs a model"));
        }
        Ok(Self {
            model: model.into(),
            weight,
        })
    }
}

// === ModelPriority ===

impl From<&ModelPriority> for v1::ModelPriority {
    fn from(ModelPriority { model, priority }: &ModelPriority) -> Self {
        Self {
            model: model.to_string(),
            priority: *priority,
        }
    }
}

impl From<v1::ModelPriority> for ModelPriority {
    fn from(v1::ModelPriority { model, priority }: v1::ModelPriority) -> Self {
        Self {
            model: model.into(),
            priority,
        }
    }
}

// === Objective ===

impl From<&Objective> for v1::Objective {
    fn from(Objective { name, priority }: &Objective) -> Self {
        Self {
            name: name.to_string(),
            priority: *priority,
        }
    }
}

impl From<v1::Objective> for Objective {
    fn from(v1::Objective { name, priority }: v1::Objective) -> Self {
        Self {
            name: name.into(),
            priority,
        }
    }
}
