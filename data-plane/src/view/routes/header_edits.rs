//! Edits of headers, as HTTP types.

use hermes_core::route::{HeaderEdits, HeaderField};
use http::{HeaderMap, HeaderName, HeaderValue};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct PreparedEdits {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

impl PreparedEdits {
    /// Makes the edits.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        let Self { set, add, remove } = self;
        for name in remove {
            headers.remove(name);
        }
        for (name, value) in set {
            headers.insert(name, value.clone());
        }
        for (name, value) in add {
            headers.append(name, value.clone());
        }
    }
}

/// What cannot be a header of HTTP is left out: the control plane has refused it.
impl From<&HeaderEdits> for PreparedEdits {
    fn from(HeaderEdits { set, add, remove }: &HeaderEdits) -> Self {
        let fields = |fields: &[HeaderField]| fields.iter().filter_map(prepared).collect();
        Self {
            set: fields(set),
            add: fields(add),
            remove: remove.iter().filter_map(|name| name.parse().ok()).collect(),
        }
    }
}

fn prepared(HeaderField { name, value }: &HeaderField) -> Option<(HeaderName, HeaderValue)> {
    Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_replaced_added_and_removed() {
        let field = |name: &str, value: &str| HeaderField {
            name: name.into(),
            value: value.into(),
        };
        let edits = PreparedEdits::from(&HeaderEdits {
            set: vec![field("x-set", "new")],
            add: vec![field("x-add", "more")],
            remove: vec!["x-gone".into()],
        });
        let mut headers = HeaderMap::new();
        for name in ["x-set", "x-set", "x-add", "x-gone", "x-left"] {
            headers.append(name, HeaderValue::from_static("old"));
        }
        edits.apply(&mut headers);
        let values = |name: &str| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values("x-set"), ["new"]);
        assert_eq!(values("x-add"), ["old", "more"]);
        assert!(values("x-gone").is_empty());
        assert_eq!(values("x-left"), ["old"]);
    }
}
