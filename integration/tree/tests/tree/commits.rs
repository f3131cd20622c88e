//! `.ci/commits` accepts messages of the form that CONTRIBUTING.md asks for, and no others.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use hermes_tree::files::root;

#[test]
fn a_message_has_a_short_subject_with_a_verb_and_a_body() {
    let long = format!("Rename {}\n\nProblem.\n", "x".repeat(66));
    let cases = [
        (
            "Add a limit of queued bytes\n\nProblem, change, check.\n",
            None,
        ),
        ("Add a limit of queued bytes\n", Some("no body")),
        (
            "Add a limit of queued bytes\n\n# A comment.\n\n",
            Some("no body"),
        ),
        ("Add a limit\nof queued bytes\n", Some("second line")),
        (
            "limits: add queued bytes\n\nProblem.\n",
            Some("capitalized verb"),
        ),
        ("Say what is queued\n\nProblem.\n", Some("what became")),
        (long.as_str(), Some("73 characters")),
    ];
    for (message, expected) in cases {
        let found = faults(message);
        match expected {
            None => assert_eq!(found, "", "{message}"),
            Some(part) => assert!(found.contains(part), "{message}: {found}"),
        }
    }
}

/// What the script finds wrong with a message.
fn faults(message: &str) -> String {
    let mut script = Command::new(root().join(".ci/commits"))
        .args(["--message", "/dev/stdin"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bash is installed");
    let input = script.stdin.take().expect("it is piped");
    { input }
        .write_all(message.as_bytes())
        .expect("the script reads");
    let output = script.wait_with_output().expect("the script ends");
    assert_eq!(output.status.success(), output.stderr.is_empty());
    String::from_utf8_lossy(&output.stderr).into_owned()
}
