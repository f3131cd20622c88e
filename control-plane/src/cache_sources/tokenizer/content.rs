//! Whether a chat template wants the content of messages as text, or as a list of parts.
//!
//! OpenAI's API allows both. Engines turn each message into what the model's template was written
//! for, and find that out by reading the template: one that loops over a message's content wants
//! parts. The same is found here, from the statements of the template alone, as vLLM does from its
//! syntax tree:
//!
//! ```text
//!   {% for message in messages %} {% for part in message['content'] %}   parts
//!   {% for message in messages %} {{ message['content'] }}               text
//! ```

/// How a template wants a message's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentFormat {
    /// A string; parts are joined by line feeds.
    Text,
    /// A list of `{"type": "text", "text": …}`.
    Parts,
}

/// One `for TARGET in SOURCE` or `set TARGET = SOURCE` of a template.
struct Statement<'a> {
    is_loop: bool,
    target: &'a str,
    source: &'a str,
}

// === ContentFormat ===

impl ContentFormat {
    /// What `template` wants.
    pub(super) fn of(template: &str) -> Self {
        let statements: Vec<Statement<'_>> = statements(template).collect();
        let lists = aliases("messages", &statements);
        let loops = || statements.iter().filter(|statement| statement.is_loop);
        let items =
            loops().filter(|outer| lists.iter().any(|list| reads(outer.source, list, None)));
        let mut messages = items.map(|outer| outer.target);
        let has_parts =
            messages.any(|item| loops().any(|inner| reads(inner.source, item, Some("content"))));
        if has_parts { Self::Parts } else { Self::Text }
    }
}

/// `name`, and every variable that is set to it or to a part of it.
fn aliases<'a>(name: &'a str, statements: &[Statement<'a>]) -> Vec<&'a str> {
    let mut names = vec![name];
    let mut at = 0;
    while let Some(known) = names.get(at).copied() {
        let sets = statements
            .iter()
            .filter(|statement| !statement.is_loop && reads(statement.source, known, None));
        for set in sets {
            if !names.contains(&set.target) {
                names.push(set.target);
            }
        }
        at += 1;
    }
    names
}

/// Whether an expression is the variable `name` (or its attribute `key`), sliced, filtered or
/// tested at most.
fn reads(expression: &str, name: &str, key: Option<&str>) -> bool {
    let Some(mut rest) = expression
        .trim_start_matches('(')
        .trim_start()
        .strip_prefix(name)
    else {
        return false;
    };
    if let Some(key) = key {
        let quoted = |quote: char| rest.strip_prefix(&*format!("[{quote}{key}{quote}]"));
        let Some(after) = rest
            .strip_prefix('.')
            .and_then(|rest| rest.strip_prefix(key))
            .or_else(|| quoted('\''))
            .or_else(|| quoted('"'))
        else {
            return false;
        };
        rest = after;
    }
    if rest.starts_with(|next: char| next.is_alphanumeric() || next == '_') {
        return false;
    }
    let rest = rest.trim_start();
    let is_slice = rest
        .strip_prefix('[')
        .is_some_and(|inside| inside.split(']').next().unwrap_or_default().contains(':'));
    let goes_on = ["|", "is ", "if ", "recursive", ")"];
    rest.is_empty() || is_slice || goes_on.iter().any(|word| rest.starts_with(word))
}

/// The loops and assignments of a template, in order.
fn statements(template: &str) -> impl Iterator<Item = Statement<'_>> {
    template.split("{%").skip(1).filter_map(|from| {
        let statement = from
            .split("%}")
            .next()?
            .trim_matches(['-', '+', ' ', '\t', '\r', '\n']);
        let (word, rest) = statement.split_once(char::is_whitespace)?;
        let (is_loop, between) = match word {
            "for" => (true, " in "),
            "set" => (false, "="),
            _ => return None,
        };
        let (target, source) = rest.split_once(between)?;
        Some(Statement {
            is_loop,
            target: target.trim(),
            source: source.trim(),
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_template_that_loops_over_content_wants_parts() {
        for template in [
            "{% for message in messages %}{% for part in message['content'] %}{{ part }}{% endfor %}{% endfor %}",
            "{%- for m in messages[1:] -%}{%- for p in m.content | selectattr('type', 'equalto', 'text') %}{% endfor %}{% endfor %}",
            "{% set loop_messages = messages[1:] %}{% set rest = loop_messages %}\n{%- for m in rest %}{% for c in m[\"content\"] %}",
            "{% for message in messages if message.role != 'system' %}{% for c in message.content if c %}",
        ] {
            assert_eq!(
                ContentFormat::of(template),
                ContentFormat::Parts,
                "{template}"
            );
        }
    }

    #[test]
    fn a_template_that_prints_content_wants_text() {
        for template in [
            "",
            "{% for message in messages %}{{ message['content'] }}{% endfor %}",
            "{% for tool in tools %}{% for c in tool.content %}{% endfor %}{% endfor %}",
            "{% for message in messages %}{% for call in message.tool_calls %}{% endfor %}{% endfor %}",
            "{% for message in messages %}{% set content = message.content %}{% for c in content %}{% endfor %}{% endfor %}",
            "{% for message in messages_of(x) %}{% for c in message.contents %}{% endfor %}{% endfor %}",
        ] {
            assert_eq!(
                ContentFormat::of(template),
                ContentFormat::Text,
                "{template}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_wants_one_of_them(text in "(\\{%|%\\}|for|set| in |=|messages|content|[ .\\[\\]'m|:]){0,30}") {
            ContentFormat::of(&text);
        }
    }
}
