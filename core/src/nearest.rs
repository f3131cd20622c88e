//! What a client may have meant by an unknown name: for the text of an error.
//!
//! Bounded on both sides: the asked name comes from outside and may be long and hostile, and a
//! cluster may serve thousands of adapters.

/// Suggestions at most.
const MAX_SUGGESTIONS: usize = 3;
/// Longer names are neither compared nor suggested, in characters.
const MAX_NAME: usize = 128;
/// Names compared at most.
const MAX_COMPARED: usize = 2_000;

/// The names closest to `asked`, closest first, at most three; empty when none is close.
///
/// Close means, ignoring case: the same, or one contains the other (`qwen3-8b` and
/// `Qwen/Qwen3-8B`), or few edits apart (a third of the length, and at least two).
pub fn nearest<'a>(asked: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let Some(asked) = folded(asked) else {
        return Vec::new();
    };
    let mut close: Vec<(usize, &str)> = names
        .into_iter()
        .take(MAX_COMPARED)
        .filter_map(|name| Some((distance(&asked, &folded(name)?)?, name)))
        .collect();
    close.sort_unstable();
    close.dedup();
    close
        .into_iter()
        .take(MAX_SUGGESTIONS)
        .map(|(_, name)| name)
        .collect()
}

/// Lower case, as characters; `None` when empty or too long to compare.
fn folded(name: &str) -> Option<Vec<char>> {
    let folded: Vec<char> = name
        .chars()
        .flat_map(char::to_lowercase)
        .take(MAX_NAME + 1)
        .collect();
    (1..=MAX_NAME).contains(&folded.len()).then_some(folded)
}

/// How far two names are apart; `None` when too far to be meant.
fn distance(asked: &[char], name: &[char]) -> Option<usize> {
    if asked == name {
        return Some(0);
    }
    // A few letters are part of too many names to mean one of them.
    if asked.len() >= 3 && (contains(name, asked) || contains(asked, name)) {
        return Some(1);
    }
    let limit = (asked.len() / 3).max(2);
    // Two letters apart says nothing about names of two letters.
    let edits = edits(asked, name, limit)?;
    (edits < asked.len().max(name.len())).then_some(1 + edits)
}

fn contains(whole: &[char], part: &[char]) -> bool {
    part.len() >= 3 && whole.windows(part.len()).any(|window| window == part)
}

/// Levenshtein distance of at most `limit`, by rows.
fn edits(a: &[char], b: &[char], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
        if row.iter().all(|&edits| edits > limit) {
            return None;
        }
    }
    row.last().copied().filter(|&edits| edits <= limit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SERVED: [&str; 5] = [
        "Qwen/Qwen3-8B",
        "Qwen/Qwen3-32B",
        "meta-llama/Llama-3.1-8B-Instruct",
        "sql-adapter",
        "deepseek-r1",
    ];

    #[test]
    fn a_name_in_the_wrong_case_is_found() {
        assert_eq!(nearest("qwen/qwen3-8b", SERVED)[0], "Qwen/Qwen3-8B");
    }

    #[test]
    fn a_name_without_its_owner_is_found() {
        assert_eq!(
            nearest("Llama-3.1-8B-Instruct", SERVED),
            ["meta-llama/Llama-3.1-8B-Instruct"]
        );
    }

    #[test]
    fn a_typing_mistake_is_found() {
        assert_eq!(nearest("deepsek-r1", SERVED), ["deepseek-r1"]);
        assert_eq!(
            nearest("Qwen/Qwen3-38B", SERVED),
            ["Qwen/Qwen3-32B", "Qwen/Qwen3-8B"]
        );
    }

    #[test]
    fn something_else_suggests_nothing() {
        for asked in ["gpt-4o", "", "x", "-"] {
            assert!(nearest(asked, SERVED).is_empty(), "{asked}");
        }
    }

    #[test]
    fn a_hostile_name_costs_nothing_and_suggests_nothing() {
        assert!(nearest(&"q".repeat(10_000_000), SERVED).is_empty());
    }

    proptest! {
        #[test]
        fn suggestions_are_few_distinct_and_served(
            asked in ".{0,200}",
            names in proptest::collection::vec("[a-zA-Z/İß.-]{0,12}", 0..20),
        ) {
            let found = nearest(&asked, names.iter().map(String::as_str));
            prop_assert!(found.len() <= 3);
            prop_assert!(found.iter().all(|name| names.iter().any(|served| served == name)));
            let mut distinct = found.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), found.len());
        }

        #[test]
        fn a_served_name_is_its_own_first_suggestion(name in "[a-z]{3,40}") {
            let shouted = name.to_uppercase();
            prop_assert_eq!(nearest(&shouted, ["other", name.as_str()]).first().copied(), Some(name.as_str()));
        }
    }
}
