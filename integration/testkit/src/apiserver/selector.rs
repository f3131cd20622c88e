//! Label selectors: what a client may ask for, and which objects match.

use serde_json::Value;

/// Requirements that all must hold. The empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    Equal(String, String),
    NotEqual(String, String),
    Exists(String),
    Absent(String),
}

// === Selector ===

impl Selector {
    /// Reads `a=b`, `a==b`, `a!=b`, `a` and `!a`, separated by commas. Sets (`a in (b,c)`) are not
    /// known here.
    ///
    /// # Errors
    ///
    /// Gives back the requirement that cannot be read.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let requirements = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        requirements
            .map(Requirement::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.0.iter().all(|requirement| requirement.holds(labels))
    }
}

// === Requirement ===

impl Requirement {
    fn parse(text: &str) -> Result<Self, String> {
        let requirement = if let Some((name, value)) = text.split_once("!=") {
            Self::NotEqual(name.trim().to_owned(), value.trim().to_owned())
        } else if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            Self::Equal(name.trim().to_owned(), value.trim().to_owned())
        } else if let Some(name) = text.strip_prefix('!') {
            Self::Absent(name.trim().to_owned())
        } else {
            Self::Exists(text.to_owned())
        };
        let odd = |c: char| c.is_whitespace() || "()=!".contains(c);
        if requirement.name().is_empty() || requirement.name().contains(odd) {
            return Err(text.to_owned());
        }
        Ok(requirement)
    }

    fn name(&self) -> &str {
        match self {
            Self::Equal(name, _)
            | Self::NotEqual(name, _)
            | Self::Exists(name)
            | Self::Absent(name) => name,
        }
    }

    fn holds(&self, labels: &Value) -> bool {
        let label = labels[self.name()].as_str();
        match self {
            Self::Equal(_, value) => label == Some(value),
            Self::NotEqual(_, value) => label != Some(value),
            Self::Exists(_) => label.is_some(),
            Self::Absent(_) => label.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn matches(selector: &str) -> bool {
        let object = json!({"metadata": {"labels": {"app": "vllm", "tier": "gold"}}});
        Selector::parse(selector).unwrap().matches(&object)
    }

    #[test]
    fn every_requirement_must_hold() {
        for selector in [
            "",
            "app=vllm",
            "app==vllm,tier",
            "app!=sglang",
            "!role",
            "role!=x",
            "app = vllm, tier = gold",
        ] {
            assert!(matches(selector), "{selector}");
        }
        for selector in ["app=sglang", "app=vllm,role", "!app", "tier!=gold"] {
            assert!(!matches(selector), "{selector}");
        }
    }

    #[test]
    fn sets_are_refused_rather_than_misread() {
        assert!(Selector::parse("app in (a,b)").is_err());
        assert!(Selector::parse("=x").is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd_to_read(text in ".{0,40}") {
            if let Ok(selector) = Selector::parse(&text) {
                selector.matches(&json!({}));
            }
        }
    }
}
