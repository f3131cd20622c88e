//! Top-level fields of a prefill's answer, as slices of it: what is handed over may be a megabyte of
//! block ids, of which nothing is read here.

use bytes::Bytes;

use crate::request::object_scanner::ObjectScanner;

/// The values of these names, of two with one name the last; `null` is none. `None` if the answer
/// is no whole JSON object.
pub(super) fn of<const N: usize>(answer: &Bytes, names: [&str; N]) -> Option<[Option<Bytes>; N]> {
    let mut values = [const { None }; N];
    let mut scanner = ObjectScanner::default();
    let scanned = scanner.scan(answer, |field| {
        let named = names.iter().position(|name| name.as_bytes() == field.name);
        if let Some(named) = named {
            let value = answer.slice(field.value.start..field.value.end);
            values[named] = (value != "null").then_some(value);
        }
    });
    scanned.and_then(|()| scanner.finish()).ok()?;
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answer: &'static str) -> Option<[Option<Bytes>; 2]> {
        of(&Bytes::from_static(answer.as_bytes()), ["a", "b"])
    }

    #[test]
    fn values_are_slices_and_null_is_none() {
        let fields = read(r#"{"x":{"a":1}, "a" : [[1, 2],{"b":"}"}] ,"b":null}"#);
        let [a, b] = fields.expect("an object");
        assert_eq!(a.expect("there"), r#"[[1, 2],{"b":"}"}]"#);
        assert_eq!(b, None);
    }

    #[test]
    fn of_two_fields_of_one_name_the_last_counts() {
        let [a, _] = read(r#"{"a":1,"\u0061":2}"#).expect("an object");
        assert_eq!(a.expect("there"), "2");
    }

    #[test]
    fn an_answer_that_is_not_whole_has_no_fields() {
        for answer in ["", "no JSON", "[1]", r#"{"a":[1,2"#, r#"{"a":1} x"#] {
            assert_eq!(read(answer), None, "{answer}");
        }
    }
}
