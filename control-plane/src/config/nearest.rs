//! Which known name somebody probably meant.

/// Longest name that is compared: longer ones are nobody's typing error, and the comparison is quadratic.
const MAX_CHARS: usize = 64;

/// The candidate closest to `name`, if it is close enough to have been meant.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if name.chars().count() > MAX_CHARS {
        return None;
    }
    let typed = folded(name);
    let close_enough = (typed.len() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&typed, &folded(candidate)), candidate))
        .filter(|(distance, _)| *distance <= close_enough)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Spelling without case and separators: `stale_after` and `staleAfter` are the same word.
fn folded(name: &str) -> Vec<char> {
    name.chars()
        .filter(|c| !matches!(c, '-' | '_' | ' ' | '.'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Levenshtein distance, one row at a time.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_or_another_style_of_spelling_finds_the_name() {
        let known = ["connect", "request", "firstByte", "idle"];
        assert_eq!(nearest("conect", known), Some("connect"));
        assert_eq!(nearest("first_byte", known), Some("firstByte"));
        assert_eq!(nearest("FirstByte", known), Some("firstByte"));
    }

    #[test]
    fn an_unrelated_word_finds_nothing() {
        assert_eq!(nearest("replicas", ["connect", "idle"]), None);
        assert_eq!(nearest(&"x".repeat(1_000), ["connect"]), None);
    }
}
