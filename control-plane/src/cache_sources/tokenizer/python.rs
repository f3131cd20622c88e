//! What chat templates expect of Python: `json.dumps`, `str`, `strftime`, and what strings and
//! mappings are.
//!
//! A template is Jinja as `transformers` sets it up. Its `tojson` is not Jinja's own: it escapes
//! nothing for HTML, it writes `", "` and `": "`, and it takes the arguments of `json.dumps`. Every
//! byte counts here, as every byte becomes tokens.

mod dumps;

use jiff::{Timestamp, fmt::strtime, tz::TimeZone};
use minijinja::{
    Environment, Error, ErrorKind, Output, Value,
    value::{Kwargs, Rest, ValueKind},
};

/// How deep a value may be nested to be written.
const MAX_DEPTH: usize = 200;

/// Gives an environment everything that templates expect of Python.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, _, value| print(out, value));
    environment.add_filter("tojson", |x: &Value, rest: Rest<Value>, named: Kwargs| {
        dumps::tojson(x, &rest, &named)
    });
    environment.add_filter("indent", |text: &str, rest: Rest<Value>, named: Kwargs| {
        indent(text, &rest, &named)
    });
    environment.add_filter("string", |value: &Value| text_of(value));
    environment.add_function("raise_exception", |_: Rest<Value>| raise_exception());
    environment.add_function("strftime_now", |format: &str| strftime_now(format));
    environment.add_test("sequence", |value: &Value| is_sequence(value));
    environment.add_test("iterable", |value: &Value| is_iterable(value));
}

/// The function `strftime_now(format)`. Containers of engines live in UTC, and so does this.
fn strftime_now(format: &str) -> Result<String, Error> {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    strtime::format(format, &now)
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "not a time format"))
}

/// The function `raise_exception(text)`: the template refuses the conversation. What it says may
/// quote the prompt, so it is not kept.
fn raise_exception() -> Result<Value, Error> {
    Err(Error::new(
        ErrorKind::InvalidOperation,
        "the template refuses this conversation",
    ))
}

/// The test `sequence`: strings and mappings have a length and items too, and so has what is
/// undefined.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::String | ValueKind::Map | ValueKind::Undefined
    )
}

/// The test `iterable`.
fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}

/// The filter `indent(s, width=4, first=False, blank=False)`. A line feed at the end stays where it
/// is.
fn indent(text: &str, positional: &[Value], named: &Kwargs) -> Result<String, Error> {
    let [width, first, blank] = arguments(["width", "first", "blank"], positional, named)?;
    let width = width.map_or_else(|| Ok("    ".to_owned()), |width| spaces(&width))?;
    let (first, blank) = (is_true(first.as_ref()), is_true(blank.as_ref()));
    let mut out = String::with_capacity(text.len() * 2);
    for (index, line) in text.replace("\r\n", "\n").split('\n').enumerate() {
        if index > 0 {
            out.push('\n');
        }
        let indents = if index == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        out.extend([if indents { &*width } else { "" }, line]);
    }
    Ok(out)
}

/// Prints a value, as `str(value)` does. The engine knows how, but for floats.
fn print(out: &mut Output<'_>, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&text_of(value)),
    };
    written.map_err(|_| Error::new(ErrorKind::InvalidOperation, "cannot print"))
}

/// The filter `string`: `str(value)`.
fn text_of(value: &Value) -> String {
    if !has_float(value, 0) {
        return value.to_string();
    }
    let mut out = String::new();
    write_repr(value, &mut out);
    out
}

fn has_float(value: &Value, depth: usize) -> bool {
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::Number => !value.is_integer(),
        // Nothing that deep is written out either.
        ValueKind::Seq if depth < MAX_DEPTH => items().any(|item| has_float(&item, depth + 1)),
        ValueKind::Map if depth < MAX_DEPTH => items().any(|key| {
            value
                .get_item(&key)
                .is_ok_and(|item| has_float(&item, depth + 1))
        }),
        _ => false,
    }
}

/// `repr(value)` of what has floats in it.
fn write_repr(value: &Value, out: &mut String) {
    if !has_float(value, 0) {
        out.push_str(&format!("{value:?}"));
        return;
    }
    let items = value.try_iter().into_iter().flatten();
    match value.kind() {
        ValueKind::Map => list(out, '{', '}', items, |key, out| {
            out.push_str(&format!("{key:?}: "));
            write_repr(&value.get_item(&key).unwrap_or_default(), out);
        }),
        ValueKind::Seq => list(out, '[', ']', items, |item, out| write_repr(&item, out)),
        _ => out.push_str(&f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)),
    }
}

fn list<T>(
    out: &mut String,
    open: char,
    close: char,
    items: impl Iterator<Item = T>,
    write: impl Fn(T, &mut String),
) {
    out.push(open);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write(item, out);
    }
    out.push(close);
}

/// A float as Python writes it: as Rust does, but for the exponent.
fn float(number: f64) -> String {
    let text = format!("{number:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent
                .strip_prefix('-')
                .map_or(('+', exponent), |exponent| ('-', exponent));
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None if number.is_nan() => "NaN".to_owned(),
        None if number.is_infinite() => if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned(),
        None => text,
    }
}

/// Arguments by their names, however they were given; null is none.
fn arguments<const N: usize>(
    names: [&str; N],
    positional: &[Value],
    named: &Kwargs,
) -> Result<[Option<Value>; N], Error> {
    let mut found = [const { None }; N];
    for (index, name) in names.into_iter().enumerate() {
        let by_name: Option<Value> = named.get(name)?;
        found[index] = by_name
            .or_else(|| positional.get(index).cloned())
            .filter(|value| !value.is_none());
    }
    named.assert_all_used()?;
    Ok(found)
}

fn is_true(value: Option<&Value>) -> bool {
    value.is_some_and(Value::is_true)
}

fn spaces(indent: &Value) -> Result<String, Error> {
    match indent.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Ok(" ".repeat(usize::try_from(indent.clone())?.min(MAX_DEPTH))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prints(template: &str, json: &str) -> String {
        let mut env = minijinja::Environment::new();
        add_to(&mut env);
        let value: Value = serde_json::from_str(json).expect("JSON");
        env.render_str(template, minijinja::context! { x => value })
            .expect("it renders")
    }

    #[test]
    fn values_are_printed_as_python_prints_them() {
        let json = r#"["a'b",null,true,1,1.0,{"k":[2.5e-7,1e20]}]"#;
        let expected = r#"["a'b", None, True, 1, 1.0, {'k': [2.5e-07, 1e+20]}]"#;
        assert_eq!(prints("{{ x }}", json), expected);
        assert_eq!(
            prints("{{ x | string ~ '!' }}", json),
            format!("{expected}!")
        );
        assert_eq!(
            prints("{{ x[3] }} {{ x[4] }} {{ x[5].k[0] }} {{ x.y }}", json),
            "1 1.0 2.5e-07 "
        );
    }

    #[test]
    fn lines_are_indented_and_the_last_line_feed_stays() {
        assert_eq!(
            prints("{{ '{\\n' | indent(4, first=true) }}|", "0"),
            "    {\n|"
        );
        assert_eq!(prints("{{ 'a\\n\\nb' | indent }}", "0"), "a\n\n    b");
        assert_eq!(
            prints("{{ 'a\\n\\nb' | indent(width='> ', blank=true) }}", "0"),
            "a\n> \n> b"
        );
    }

    #[test]
    fn a_date_is_formatted_as_templates_ask() {
        let today = strftime_now("%d %b %Y").expect("a usual format");
        assert_eq!(today.len(), "26 Jul 2024".len(), "{today}");
        assert!(strftime_now("%").is_err());
    }
}
