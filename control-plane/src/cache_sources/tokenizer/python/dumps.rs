//! `json.dumps`, as the filter `tojson` of `transformers`.

use std::fmt::Write;

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};

use super::{MAX_DEPTH, arguments, float, is_true, spaces};

/// The arguments of `json.dumps`, with the defaults that `transformers` gives them.
struct Dumps {
    ascii: bool,
    sort_keys: bool,
    /// Written once for each level, when lines are broken at all.
    indent: Option<String>,
    comma: String,
    colon: String,
}

/// The filter `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, positional: &[Value], named: &Kwargs) -> Result<Value, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort_keys] = arguments(names, positional, named)?;
    let indent = indent.map(|indent| spaces(&indent)).transpose()?;
    let (comma, colon) = match separators {
        Some(pair) => (text(&pair, 0)?, text(&pair, 1)?),
        None => (
            if indent.is_some() { "," } else { ", " }.to_owned(),
            ": ".to_owned(),
        ),
    };
    let (ascii, sort_keys) = (is_true(ascii.as_ref()), is_true(sort_keys.as_ref()));
    let mut out = String::new();
    Dumps {
        ascii,
        sort_keys,
        indent,
        comma,
        colon,
    }
    .write(value, 0, &mut out)?;
    Ok(Value::from(out))
}

fn text(pair: &Value, index: usize) -> Result<String, Error> {
    Ok(pair.get_item_by_index(index)?.to_string())
}

// === Dumps ===

impl Dumps {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "nested too deeply for JSON",
            ));
        }
        match value.kind() {
            ValueKind::None | ValueKind::Undefined => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => out.push_str(&float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Map => self.map(value, depth, out)?,
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth, out)?,
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "not a JSON value")),
        }
        Ok(())
    }

    fn list(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        out.push('[');
        let mut empty = true;
        for item in value.try_iter()? {
            self.next(&mut empty, depth, out);
            self.write(&item, depth + 1, out)?;
        }
        self.end(']', empty, depth, out);
        Ok(())
    }

    fn map(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        out.push('{');
        let mut empty = true;
        for key in keys {
            self.next(&mut empty, depth, out);
            self.string(&key.to_string(), out);
            out.push_str(&self.colon);
            self.write(&value.get_item(&key)?, depth + 1, out)?;
        }
        self.end('}', empty, depth, out);
        Ok(())
    }

    /// What comes before an item.
    fn next(&self, empty: &mut bool, depth: usize, out: &mut String) {
        if !std::mem::take(empty) {
            out.push_str(&self.comma);
        }
        self.line(depth + 1, out);
    }

    fn end(&self, bracket: char, empty: bool, depth: usize, out: &mut String) {
        if !empty {
            self.line(depth, out);
        }
        out.push(bracket);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        // A string is always JSON; control characters are escaped as Python does.
        let quoted = serde_json::to_string(text).unwrap_or_default();
        if !self.ascii {
            out.push_str(&quoted);
            return;
        }
        let mut units = [0; 2];
        for char in quoted.chars() {
            match char {
                '\u{7f}'.. => char.encode_utf16(&mut units).iter().for_each(|unit| {
                    // Writing into a string cannot fail.
                    let _written = write!(out, "\\u{unit:04x}");
                }),
                ascii => out.push(ascii),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumps(call: &str, json: &str) -> String {
        let mut env = minijinja::Environment::new();
        super::super::add_to(&mut env);
        let value: Value = serde_json::from_str(json).expect("JSON");
        env.render_str(
            &format!("{{{{ x | {call} }}}}"),
            minijinja::context! { x => value },
        )
        .expect("it renders")
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let json = r#"{"z":1,"a":["<é'\n",null,true,1.0,1e20,1e-7,0.0001,-2],"e":{},"l":[]}"#;
        assert_eq!(
            dumps("tojson", json),
            r#"{"z": 1, "a": ["<é'\n", null, true, 1.0, 1e+20, 1e-07, 0.0001, -2], "e": {}, "l": []}"#
        );
        assert_eq!(
            dumps("tojson(ensure_ascii=True)", r#"["é\u007f😀"]"#),
            r#"["\u00e9\u007f\ud83d\ude00"]"#
        );
        assert_eq!(
            dumps("tojson(indent=2)", r#"{"a":[1,{}]}"#),
            "{\n  \"a\": [\n    1,\n    {}\n  ]\n}"
        );
        assert_eq!(
            dumps(
                "tojson(separators=(',', ':'), sort_keys=true)",
                r#"{"b":1,"a":2}"#
            ),
            r#"{"a":2,"b":1}"#
        );
    }
}
