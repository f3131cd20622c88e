//! The matches of one host, found by the path of a request.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use crate::route::{PathMatch, TextPattern};

/// A match, ordered by its precedence among those of one host and one path: the least counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RankedMatch {
    pub(super) has_no_method: bool,
    pub(super) headers: Reverse<usize>,
    pub(super) query: Reverse<usize>,
    pub(super) created: u64,
    /// Its place in the list of routes, which is sorted by name.
    pub(super) route: usize,
    pub(super) rule: usize,
    pub(super) match_position: usize,
}

/// See the module. To be sorted once it is complete.
#[derive(Debug, Default)]
pub(super) struct PathIndex {
    exact: HashMap<Arc<str>, Vec<RankedMatch>>,
    /// The longest first.
    patterns: Vec<(TextPattern, RankedMatch)>,
    /// By prefix, without a slash at the end.
    prefixes: HashMap<Arc<str>, Vec<RankedMatch>>,
    /// The lengths of prefixes, the longest first.
    lengths: Vec<usize>,
}

impl PathIndex {
    pub(super) fn add(&mut self, path: &PathMatch, candidate: RankedMatch) {
        match path {
            PathMatch::Exact(path) => {
                self.exact
                    .entry(Arc::clone(path))
                    .or_default()
                    .push(candidate);
            }
            PathMatch::Pattern(pattern) => self.patterns.push((pattern.clone(), candidate)),
            PathMatch::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                self.lengths.push(prefix.len());
                self.prefixes
                    .entry(prefix.into())
                    .or_default()
                    .push(candidate);
            }
        }
    }

    /// Puts everything in the order in which it is tried.
    pub(super) fn sort(&mut self) {
        let lists = self.exact.values_mut().chain(self.prefixes.values_mut());
        lists.for_each(|list| list.sort_unstable());
        self.patterns
            .sort_by_key(|(pattern, candidate)| (Reverse(pattern.as_str().len()), *candidate));
        self.lengths.sort_unstable_by_key(|length| Reverse(*length));
        self.lengths.dedup();
    }

    /// The first candidate by precedence whose path this is, and which `holds`.
    pub(super) fn find(
        &self,
        path: &str,
        holds: impl Fn(&RankedMatch) -> bool,
    ) -> Option<&RankedMatch> {
        let first = |list: &'_ Vec<RankedMatch>| list.iter().position(&holds);
        if let Some(list) = self.exact.get(path)
            && let Some(at) = first(list)
        {
            return list.get(at);
        }
        let by_pattern = self
            .patterns
            .iter()
            .find(|(pattern, candidate)| pattern.matches(path.as_bytes()) && holds(candidate));
        if let Some((_, candidate)) = by_pattern {
            return Some(candidate);
        }
        self.lengths.iter().find_map(|length| {
            let rest = path.as_bytes().get(*length..)?;
            if !matches!(rest.first(), None | Some(b'/')) {
                return None;
            }
            let list = self.prefixes.get(&path[..*length])?;
            list.get(first(list)?)
        })
    }
}
