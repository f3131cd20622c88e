//! Words that this repository does without, each with what to write instead. They are looked for in
//! code, comments, documentation, configuration and scripts, and inside names too (`is_told`,
//! `ToldState`).
//!
//! Software does not tell, hear, believe or lie: it reports, receives, accepts, and has faulty
//! values. An actor has a name (a request, an endpoint, a client) and is no *whoever*. A word is on
//! the list only if its everyday use is always one of these; a word with a technical use of its own
//! (`say`, `know`, `refuse`, `trial`) is not.

/// A word, and what to write instead.
pub type Word = (&'static str, &'static str);

/// Single words.
pub const WORDS: [Word; 45] = [
    ("told", "reported, sent, given"),
    ("tell", "report, return, distinguish"),
    ("tells", "reports, returns, distinguishes"),
    ("telling", "reporting, distinguishing"),
    ("whoever", "the name of the actor"),
    ("whom", "the name of the object"),
    ("nobody", "no request, no endpoint, no client"),
    ("somebody", "the name of the actor"),
    ("anybody", "any request, any client"),
    ("anew", "again"),
    ("hear", "receive"),
    ("hears", "receives"),
    ("heard", "received, seen"),
    ("believe", "accept, trust"),
    ("believes", "accepts, trusts"),
    ("believed", "accepted, trusted"),
    ("believing", "accepting, trusting"),
    ("lie", "report faulty values"),
    ("lies", "faulty values"),
    ("lied", "reported faulty values"),
    ("lying", "faulty"),
    ("story", "scenario"),
    ("stories", "scenarios"),
    ("mend", "fix, correct, recover"),
    ("mends", "fixes, corrects, recovers"),
    ("mended", "fixed, corrected"),
    ("desperate", "panic"),
    ("dark", "unsynced"),
    ("darken", "mark as unsynced"),
    ("farewell", "graceful close"),
    ("taught", "replayed (history replay)"),
    ("teach", "replay (history replay)"),
    ("teaches", "replays (history replay)"),
    ("teaching", "history replay"),
    ("pupil", "the replica whose history is replayed"),
    ("pupils", "the replicas whose history is replayed"),
    ("lesson", "a batch of a history replay"),
    ("lessons", "batches of a history replay"),
    ("rung", "fallback level"),
    ("rungs", "fallback levels"),
    ("ladder", "fallback chain"),
    ("rehearsal", "live replay"),
    ("roster", "the ranks of an endpoint"),
    ("dice", "random number generator"),
    ("unary", "non-streaming"),
];

/// Words in sequence.
pub const PHRASES: [Word; 9] = [
    ("so many", "the number's name: `count` blocks, N tokens"),
    ("as good as", "almost, equivalent to"),
    ("stands for", "represents, identifies"),
    ("stand for", "represent, identify"),
    ("stood for", "represented, identified"),
    ("comes to", "reaches, results in"),
    ("who waits", "a queued request"),
    ("its word", "its confidence"),
    ("their word", "their confidence"),
];

/// What follows `lie` when something is in a place. That is no untruth.
const PLACES: [&str; 18] = [
    "above", "ahead", "at", "behind", "below", "beneath", "between", "beyond", "here", "in",
    "inside", "near", "on", "outside", "there", "under", "where", "within",
];

/// Every word of the lists in `text`, as (line, word, what to write instead).
#[must_use]
pub fn find(text: &str) -> Vec<(usize, &'static str, &'static str)> {
    let words = split(text);
    // A page with a theme of its own has dark colours.
    let has_theme = text.contains("color-scheme");
    let mut found = Vec::new();
    for (at, (line, word)) in words.iter().enumerate() {
        let next = words.get(at + 1).map_or("", |(_, next)| next.as_str());
        let is_meant_otherwise = match word.as_str() {
            "lie" | "lies" | "lying" => PLACES.contains(&next),
            "dark" => has_theme,
            _ => false,
        };
        if !is_meant_otherwise {
            let listed = WORDS.iter().find(|(listed, _)| listed == word);
            found.extend(listed.map(|(listed, instead)| (*line, *listed, *instead)));
        }
        let follows = |phrase: &str| {
            let rest = words[at..].iter().map(|(_, word)| word.as_str());
            phrase.split(' ').eq(rest.take(phrase.split(' ').count()))
        };
        let phrases = PHRASES.iter().filter(|(phrase, _)| follows(phrase));
        found.extend(phrases.map(|(phrase, instead)| (*line, *phrase, *instead)));
    }
    found
}

/// `text` without what stands in backticks on one line: names that a page of changes has to quote.
#[must_use]
pub fn without_quotes(text: &str) -> String {
    let unquoted = |line: &str| line.split('`').step_by(2).collect::<Vec<_>>().join("`");
    text.lines().map(|line| unquoted(line) + "\n").collect()
}

/// Words in lower case with their lines. Names are split at `_` and before capitals.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let letters: Vec<char> = line.chars().collect();
        let mut word = String::new();
        for (place, letter) in letters.iter().enumerate() {
            let follows_small = place > 0 && letters[place - 1].is_lowercase();
            let precedes_small = letters
                .get(place + 1)
                .is_some_and(|next| next.is_lowercase());
            let begins = letter.is_uppercase() && (follows_small || precedes_small);
            if (begins || !letter.is_alphabetic()) && !word.is_empty() {
                words.push((at + 1, std::mem::take(&mut word)));
            }
            if letter.is_alphabetic() {
                word.extend(letter.to_lowercase());
            }
        }
        if !word.is_empty() {
            words.push((at + 1, word));
        }
    }
    words
}

#[test]
fn words_are_found_in_prose_and_inside_names() {
    let found = |text: &str| -> Vec<(usize, &str)> {
        find(text)
            .into_iter()
            .map(|(line, word, _)| (line, word))
            .collect()
    };
    assert_eq!(
        found("/// What is\n/// told, to whom."),
        [(2, "told"), (2, "whom")]
    );
    assert_eq!(
        found("fn is_told(state: HTTPToldState) {}"),
        [(1, "told"), (1, "told")]
    );
    assert_eq!(found("// At most so\n// many blocks."), [(1, "so many")]);
    assert_eq!(found("Each source can lie, and lies below."), [(1, "lie")]);
    assert!(found("intelligible, stolid, hearth, storyboard, household").is_empty());
    assert!(found("color-scheme: light dark").is_empty());
    assert_eq!(found("a dark stream"), [(1, "dark")]);
    assert!(found(&without_quotes("renamed from `is_told`\n")).is_empty());
}
