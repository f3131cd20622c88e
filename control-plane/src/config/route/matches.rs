//! Reads one item of the list `matches` of a rule.

use std::{collections::BTreeSet, ops::RangeInclusive, sync::Arc};

use hermes_core::route::{
    FieldMatch, PathMatch, RouteMatch, TextMatch, TextPattern, is_route_path,
};

use crate::config::section::Section;

/// Headers, and parameters, of one match.
const FIELDS: RangeInclusive<usize> = 0..=16;

/// What a path may be.
pub(super) const PATH: &str = "a path such as /v1/chat, with escapes and without a query";

/// What an expression may be.
const PATTERN: &str =
    "a regular expression of at most 512 bytes, without references back or look around";

/// What the name of a parameter may be.
const PARAMETER: &str = "a parameter's name";

/// What the name of a header may be.
pub(super) const HEADER: &str = "a header's name, such as x-team";

/// The methods of HTTP.
const METHODS: [(&str, &str); 9] = [
    ("GET", "GET"),
    ("HEAD", "HEAD"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("DELETE", "DELETE"),
    ("CONNECT", "CONNECT"),
    ("OPTIONS", "OPTIONS"),
    ("TRACE", "TRACE"),
    ("PATCH", "PATCH"),
];

/// One match.
pub(super) fn read(section: &mut Section<'_>) -> RouteMatch {
    let path = section.section(
        "path",
        "What the path is, without the query: one of the keys inside. Without it, any path.",
        read_path,
    );
    let method: Option<&'static str> = section
        .one_of("method", &METHODS, "What the method is.")
        .or_unset("any");
    let headers = section.list(
        "headers",
        FIELDS,
        "What headers are; all have to be.",
        |section| read_field(section, HEADER, is_header, str::to_ascii_lowercase),
    );
    let query = section.list(
        "query",
        FIELDS,
        "What parameters of the query are, after escapes are decoded; all have to be. Of several of one name the first counts.",
        |section| read_field(section, PARAMETER, |_| true, str::to_owned),
    );
    refuse_twice(section, "headers", &headers);
    refuse_twice(section, "query", &query);
    RouteMatch {
        path,
        method: method.map(Into::into),
        headers,
        query,
    }
}

fn read_path(section: &mut Section<'_>) -> PathMatch {
    let exact = section
        .text_where("exact", PATH, is_route_path, "It is this.")
        .optional();
    let prefix = section
        .text_where(
            "prefix",
            PATH,
            is_route_path,
            "It is this, or below it: /a is a prefix of /a, /a/ and /a/b, and not of /ab.",
        )
        .optional();
    let pattern = pattern(section, "As a whole it matches this regular expression.");
    let given = ["exact", "prefix", "pattern"];
    if given.iter().filter(|key| section.has(key)).count() > 1 {
        section.own_error(
            "several of `exact`, `prefix` and `pattern`",
            "set one of them",
        );
    }
    match (exact, prefix, pattern) {
        (Some(path), ..) => PathMatch::Exact(path),
        (_, _, Some(pattern)) => PathMatch::Pattern(pattern),
        (_, prefix, _) => PathMatch::Prefix(prefix.unwrap_or_else(|| "/".into())),
    }
}

/// The key `pattern` of a mapping.
fn pattern(section: &mut Section<'_>, meaning: &'static str) -> Option<TextPattern> {
    section
        .parsed(
            "pattern",
            PATTERN,
            |text| TextPattern::parse(text).ok(),
            meaning,
        )
        .optional()
}

/// A name and what its value is.
fn read_field(
    section: &mut Section<'_>,
    expected: &'static str,
    is_name: impl Fn(&str) -> bool,
    written: impl Fn(&str) -> String,
) -> Option<FieldMatch> {
    let name = section
        .text_where("name", expected, is_name, "Its name.")
        .required("set its name");
    let exact = section
        .text("exact", "its value", "Its value is this.")
        .optional();
    let pattern = pattern(
        section,
        "As a whole its value matches this regular expression.",
    );
    let given = ["exact", "pattern"].iter().filter(|key| section.has(key));
    if given.count() != 1 {
        section.own_error("not one value", "set either `exact` or `pattern`");
    }
    let exact = exact.map(TextMatch::Exact);
    Some(FieldMatch {
        name: written(&name?).into(),
        value: exact.or_else(|| pattern.map(TextMatch::Pattern))?,
    })
}

pub(super) fn is_header(name: &str) -> bool {
    http::HeaderName::try_from(name).is_ok()
}

fn refuse_twice(section: &Section<'_>, key: &str, fields: &[FieldMatch]) {
    let mut names: BTreeSet<&Arc<str>> = BTreeSet::new();
    if let Some(field) = fields.iter().find(|field| !names.insert(&field.name)) {
        let found = format!("`{}` is there twice", field.name);
        section.error(key, found, "match each name once");
    }
}
