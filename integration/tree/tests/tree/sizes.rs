//! Files, functions and lines that can be read at a glance.

use std::collections::BTreeMap;

use hermes_tree::{assert_none, files, source, tokens};

const LINES_OF_A_FILE: usize = 500;

/// `cargo fmt` ends a line at 100 columns: more closures than this on one line are hard to read.
const CLOSURES_ON_A_LINE: usize = 3;

#[test]
fn files_stay_readable() {
    let mut complaints = Vec::new();
    for file in files::ending_in(".rs") {
        let lines = file.text.lines().count();
        if lines > LINES_OF_A_FILE {
            complaints.push(format!("{}: {lines} lines", file.path));
        }
    }
    assert_none(
        &complaints,
        "split by noun, so that no file is longer than 500 lines",
    );
}

#[test]
fn lines_chain_few_closures() {
    let mut complaints = Vec::new();
    for file in files::ending_in(".rs") {
        for (line, closures) in closures_by_line(&file.text) {
            if closures > CLOSURES_ON_A_LINE {
                complaints.push(format!("{}:{line}: {closures} closures", file.path));
            }
        }
    }
    assert_none(
        &complaints,
        "name the steps by `let`, or write a loop, so that no line chains more than three closures",
    );
}

/// How many closures are passed as arguments on each line that passes any.
fn closures_by_line(text: &str) -> BTreeMap<usize, usize> {
    let code = source::blank(text);
    let tokens = tokens::tokens(&code);
    let mut found = BTreeMap::new();
    for window in tokens.windows(3) {
        let [before, first, second] = [window[0].text, window[1].text, window[2].text];
        let begins = first == "|" || first == "move" && second == "|";
        if matches!(before, "(" | ",") && begins {
            *found.entry(window[0].line).or_default() += 1;
        }
    }
    found
}

#[test]
fn the_check_itself_counts_closures_and_no_alternatives() {
    let text = "a.map(|x| x).filter(|y| y).fold(0, move |z, w| z | w).any(|| true);\nmatches!(a, (1 | 2, 3 | 4) | b)\n";
    assert_eq!(closures_by_line(text), BTreeMap::from([(1, 4)]));
}
