//! Which kind of object a path means.

/// One kind in one API version, as its paths name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Collection {
    /// `/api/v1`, or `/apis/GROUP/VERSION`.
    root: String,
    plural: String,
}

// === Collection ===

impl Collection {
    /// The collection of an API type.
    #[must_use]
    pub fn of<K: k8s_openapi::Resource>() -> Self {
        let tree = if K::GROUP.is_empty() { "api" } else { "apis" };
        let root = format!("/{tree}/{}", K::API_VERSION);
        Self {
            root,
            plural: K::URL_PATH_SEGMENT.to_owned(),
        }
    }

    /// The collection of a custom resource.
    #[must_use]
    pub fn custom(group: &str, version: &str, plural: &str) -> Self {
        Self {
            root: format!("/apis/{group}/{version}"),
            plural: plural.to_owned(),
        }
    }

    /// Reads `ROOT/namespaces/NAMESPACE/PLURAL` and `ROOT/PLURAL`; the second means all namespaces.
    pub(crate) fn parse(path: &str) -> Option<(Self, Option<String>)> {
        let segments: Vec<_> = path.strip_prefix('/')?.split('/').collect();
        let roots = match *segments.first()? {
            "api" => 2,
            "apis" => 3,
            _ => return None,
        };
        let (root, rest) = segments.split_at_checked(roots)?;
        let (namespace, plural) = match rest {
            ["namespaces", namespace, plural] => (Some((*namespace).to_owned()), plural),
            [plural] => (None, plural),
            _ => return None,
        };
        let collection = Self {
            root: format!("/{}", root.join("/")),
            plural: (*plural).to_owned(),
        };
        Some((collection, namespace))
    }

    /// Reads `ROOT/namespaces/NAMESPACE/PLURAL/NAME/status`: the collection, namespace and name.
    pub(crate) fn parse_status(path: &str) -> Option<(Self, String, String)> {
        Self::parse_object(path.strip_suffix("/status")?)
    }

    /// Reads `ROOT/namespaces/NAMESPACE/PLURAL/NAME`, or `ROOT/PLURAL/NAME` of a kind without
    /// namespaces: the collection, namespace and name.
    pub(crate) fn parse_object(path: &str) -> Option<(Self, String, String)> {
        let (object, name) = path.rsplit_once('/')?;
        let (collection, namespace) = Self::parse(object)?;
        Some((collection, namespace.unwrap_or_default(), name.to_owned()))
    }

    pub(crate) fn plural(&self) -> &str {
        &self.plural
    }

    /// `v1`, or `GROUP/VERSION`.
    pub(crate) fn api_version(&self) -> &str {
        let root = self.root.as_str();
        root.strip_prefix("/apis/")
            .or_else(|| root.strip_prefix("/api/"))
            .unwrap_or(root)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_name_collections() {
        let pods = Collection::of::<Pod>();
        assert_eq!(
            Collection::parse("/api/v1/namespaces/ai/pods"),
            Some((pods.clone(), Some("ai".to_owned())))
        );
        assert_eq!(
            Collection::parse("/api/v1/pods"),
            Some((pods.clone(), None))
        );
        assert_eq!(pods.api_version(), "v1");

        let slices = Collection::of::<EndpointSlice>();
        assert_eq!(
            Collection::parse("/apis/discovery.k8s.io/v1/endpointslices"),
            Some((slices.clone(), None))
        );
        assert_eq!(slices.api_version(), "discovery.k8s.io/v1");
    }

    #[test]
    fn other_paths_name_none() {
        for path in [
            "",
            "/",
            "/api",
            "/healthz",
            "/apis/apps",
            "/api/v1/namespaces/ai/pods/a",
        ] {
            assert_eq!(Collection::parse(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_is_too_odd_to_read(path in ".{0,60}") {
            let _ = Collection::parse(&path);
        }
    }
}
