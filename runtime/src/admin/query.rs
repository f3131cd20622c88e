//! The query of an admin request.

use crate::percent;

/// Decoded `name=value` pairs, in the order of the query string. A pair whose escapes are broken is
/// left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdminQuery {
    pairs: Vec<(String, String)>,
}

impl AdminQuery {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text
            .split('&')
            .filter(|pair| !pair.is_empty())
            .filter_map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((decode(name)?, decode(value)?))
            });
        Self {
            pairs: pairs.collect(),
        }
    }

    /// The first value of `name`; empty when the name stands alone.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find_map(|(found, value)| (found == name).then_some(value))
    }

    /// All pairs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Forms write a space as `+`.
fn decode(text: &str) -> Option<String> {
    percent::decode(&text.replace('+', " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_are_decoded_and_the_first_value_wins() {
        let query = AdminQuery::parse("model=Qwen%2FQwen3&pretty&note=a+b&model=other&bad=%zz");
        assert_eq!(query.get("model"), Some("Qwen/Qwen3"));
        assert_eq!(query.get("pretty"), Some(""));
        assert_eq!(query.get("note"), Some("a b"));
        assert_eq!(query.get("bad"), None);
    }

    proptest! {
        #[test]
        fn no_query_panics_or_grows(text in ".*") {
            let query = AdminQuery::parse(&text);
            let size: usize = query.iter().map(|(name, value)| name.len() + value.len()).sum();
            prop_assert!(size <= text.len());
        }
    }
}
