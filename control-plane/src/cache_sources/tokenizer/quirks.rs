//! Where templates rely on what Jinja in Python does and the engine here does not: what can be put
//! right before a template is compiled is, and what cannot is found, so that no wrong text is
//! rendered.

use std::iter;

/// Methods of Python's mappings. There, `schema.items` is the method even when the mapping has a
/// key of that name.
const METHODS: [&str; 5] = ["items", "keys", "values", "get", "copy"];

/// A template as it is compiled. Jinja ends every line by a line feed, whatever its file has there,
/// and what a model said may be marked for training by `{% generation %}`, a tag of no other
/// engine.
pub(super) fn normal(template: &str) -> String {
    let template = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(template.len());
    let mut rest = &*template;
    while let Some((before, from)) = rest.split_once("{%") {
        let Some((statement, after)) = from.split_once("%}") else {
            break;
        };
        let statement = match statement.trim_matches(['-', '+', ' ']) {
            "generation" => statement.replace("generation", "if true"),
            "endgeneration" => statement.replace("endgeneration", "endif"),
            _ => statement.to_owned(),
        };
        out.extend([before, "{%", &statement, "%}"]);
        rest = after;
    }
    out + rest
}

/// Whether it marks a text as safe and adds another: Jinja then escapes the other one.
pub(super) fn escapes(template: &str) -> bool {
    let is_safe = |code: &str| {
        code.split('|')
            .skip(1)
            .any(|filter| word(filter.trim_start()) == "safe")
    };
    codes(template).any(|code| code.contains('+') && is_safe(code))
}

/// Whether it takes a method of a mapping for a value, where the engine here would find a key of
/// that name, or nothing.
pub(super) fn takes_methods(template: &str) -> bool {
    let takes = |name: &str| {
        let method = word(name);
        METHODS.contains(&method) && !name[method.len()..].trim_start().starts_with('(')
    };
    codes(template).any(|code| code.split('.').skip(1).any(takes))
}

/// The insides of statements and expressions.
fn codes(template: &str) -> impl Iterator<Item = &str> {
    let mut rest = template;
    iter::from_fn(move || {
        let open = rest.match_indices('{').map(|(at, _)| &rest[at + 1..]);
        let inside = open
            .into_iter()
            .find(|inside| inside.starts_with(['{', '%']))?;
        let close = if inside.starts_with('{') { "}}" } else { "%}" };
        let (code, after) = inside[1..].split_once(close).unwrap_or((&inside[1..], ""));
        rest = after;
        Some(code)
    })
}

/// The name that `text` begins with.
fn word(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marks_for_training_and_line_ends_are_put_right() {
        let template = "a\r\n{%- generation -%}\r{{ x }}{% endgeneration %}{% if generation %}";
        assert_eq!(
            normal(template),
            "a\n{%- if true -%}\n{{ x }}{% endif %}{% if generation %}"
        );
    }

    #[test]
    fn what_cannot_be_followed_is_found() {
        assert!(escapes("{% if a %}{{ 'a'|safe + x }}") && escapes("{{- y + x | safe }}"));
        assert!(!escapes(
            "{{ x | safe }} {{ a + b }} {{ x + y | safely }} | safe +"
        ));
        assert!(takes_methods("{%- if spec.items %}") && takes_methods("{{ f(spec.items) }}"));
        assert!(!takes_methods(
            "{% for k, v in spec.items() %} {{ spec.get ('x') }} a.items {{ x.items_of }}"
        ));
    }

    proptest! {
        #[test]
        fn any_text_is_looked_through(text in "(\\{[%{]|[%}]\\}|generation|safe|items|[ |.(a\r\n-]|\\PC){0,30}") {
            let (_, _, _) = (normal(&text), escapes(&text), takes_methods(&text));
        }
    }
}
