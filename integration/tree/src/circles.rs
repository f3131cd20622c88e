//! Circles in a graph: its strongly connected components of more than one node (Tarjan 1972).

use std::collections::{BTreeMap, BTreeSet};

/// The circles of a graph that is given by its arrows.
#[must_use]
pub fn circles<N: Clone + Ord>(arrows: &BTreeSet<(N, N)>) -> Vec<BTreeSet<N>> {
    let mut search = Search {
        next: BTreeMap::new(),
        index: BTreeMap::new(),
        low: BTreeMap::new(),
        stack: Vec::new(),
        found: Vec::new(),
    };
    for (from, to) in arrows {
        search.next.entry(from).or_default().push(to);
    }
    for (from, _) in arrows {
        search.visit(from);
    }
    search.found
}

struct Search<'a, N> {
    next: BTreeMap<&'a N, Vec<&'a N>>,
    /// When each node was visited.
    index: BTreeMap<&'a N, usize>,
    /// The earliest visited node that each one reaches, among those on the stack.
    low: BTreeMap<&'a N, usize>,
    stack: Vec<&'a N>,
    found: Vec<BTreeSet<N>>,
}

// === Search ===

impl<'a, N: Clone + Ord> Search<'a, N> {
    fn visit(&mut self, node: &'a N) {
        if self.index.contains_key(node) {
            return;
        }
        let index = self.index.len();
        self.index.insert(node, index);
        self.low.insert(node, index);
        self.stack.push(node);
        for next in self.next.get(node).cloned().unwrap_or_default() {
            let reached = if self.index.contains_key(next) {
                // A node that has left the stack belongs to a component that is complete.
                self.stack.contains(&next).then(|| self.index[next])
            } else {
                self.visit(next);
                Some(self.low[next])
            };
            if let (Some(reached), Some(low)) = (reached, self.low.get_mut(node)) {
                *low = reached.min(*low);
            }
        }
        if self.low[node] == index {
            let begin = self
                .stack
                .iter()
                .position(|on| *on == node)
                .unwrap_or_default();
            let component: BTreeSet<N> = self.stack.drain(begin..).cloned().collect();
            if component.len() > 1 {
                self.found.push(component);
            }
        }
    }
}

#[test]
fn only_nodes_that_reach_each_other_form_a_circle() {
    let arrows = BTreeSet::from([
        (1, 2),
        (2, 3),
        (3, 1),
        (3, 4),
        (4, 5),
        (5, 4),
        (6, 1),
        (7, 7),
    ]);
    assert_eq!(
        circles(&arrows),
        [BTreeSet::from([4, 5]), BTreeSet::from([1, 2, 3])]
    );
    assert!(circles(&BTreeSet::from([(1, 2), (1, 3), (2, 4), (3, 4)])).is_empty());
}
