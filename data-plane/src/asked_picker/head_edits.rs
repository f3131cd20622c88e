//! The edits that a picker makes to the head of a request or of an answer.
//!
//! They are Envoy's: what is removed is removed first; what is set takes the place of what has its
//! name, unless it is to be added. A name that is set several times at once keeps all its values, as
//! pickers return the heads that they were shown. Headers that belong to a connection or state how a
//! body is framed are this proxy's own, and the method and the authority of a request stay.

use std::str::FromStr;

use hermes_core::header_names::is_hop_by_hop;
use hermes_proto::ext_proc::{
    HeaderMutation, HeaderValue as WireHeader, HeaderValueOption,
    header_value_option::HeaderAppendAction,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response, uri::PathAndQuery};

use crate::request::{headers::is_for_the_connection, inference_request::MAX_TARGET};

/// Fields of one edit that are read.
const MAX_FIELDS: usize = 1_024;

/// Edits the head of a request.
pub(super) fn edit_request(
    mutation: &HeaderMutation,
    headers: &mut HeaderMap,
    target: &mut PathAndQuery,
) {
    edit(mutation, headers, is_for_the_connection);
    if let Some(path) = pseudo(mutation, ":path")
        && path.first() == Some(&b'/')
        && path.len() <= MAX_TARGET
        && let Ok(path) = PathAndQuery::try_from(path)
    {
        *target = path;
    }
}

/// Edits the head of an answer.
pub(super) fn edit_answer(mutation: &HeaderMutation, head: &mut response::Parts) {
    let is_ours = |name: &str| is_hop_by_hop(name) || name == header::CONTENT_LENGTH.as_str();
    edit(mutation, &mut head.headers, is_ours);
    let status = pseudo(mutation, ":status").and_then(|status| StatusCode::from_bytes(status).ok());
    if let Some(status) = status.filter(|status| is_final(*status)) {
        head.status = status;
    }
}

/// Whether a picker may give this status to a client.
pub(super) fn is_final(status: StatusCode) -> bool {
    (200..600).contains(&status.as_u16())
}

/// The value that is set for a name, as text.
pub(super) fn set_text<'m>(mutation: &'m HeaderMutation, name: &str) -> Option<&'m str> {
    let mut fields = mutation.set_headers.iter().rev();
    let found = fields.find_map(|set| {
        let field = set.header.as_ref()?;
        field.key.eq_ignore_ascii_case(name).then(|| field.bytes())
    });
    std::str::from_utf8(found?).ok()
}

/// `is_ours`: names that stay as they are.
fn edit(mutation: &HeaderMutation, headers: &mut HeaderMap, is_ours: impl Fn(&str) -> bool) {
    for name in mutation.remove_headers.iter().take(MAX_FIELDS) {
        if let Ok(name) = HeaderName::from_str(name)
            && !is_ours(name.as_str())
        {
            headers.remove(name);
        }
    }
    let mut replaced: Vec<HeaderName> = Vec::new();
    for set in mutation.set_headers.iter().take(MAX_FIELDS) {
        let Some((name, value)) = header(set).filter(|(name, _)| !is_ours(name.as_str())) else {
            continue;
        };
        let is_there = headers.contains_key(&name);
        let is_repeated = replaced.contains(&name);
        match action(set) {
            HeaderAppendAction::AddIfAbsent if is_there => {}
            HeaderAppendAction::OverwriteIfExists if !is_there => {}
            HeaderAppendAction::AppendIfExistsOrAdd => {
                headers.append(name, value);
            }
            // A picker sets its own, and copies the whole head after it.
            _ if is_repeated && headers.get_all(&name).iter().any(|one| *one == value) => {}
            _ if is_repeated => {
                headers.append(name, value);
            }
            _ => {
                headers.insert(name.clone(), value);
                replaced.push(name);
            }
        }
    }
}

/// What is meant: without `append`, the action 0 is that of a picker which states none, and
/// overwrites, as Envoy has it here.
fn action(set: &HeaderValueOption) -> HeaderAppendAction {
    if set.append == Some(true) {
        return HeaderAppendAction::AppendIfExistsOrAdd;
    }
    match HeaderAppendAction::try_from(set.append_action) {
        Ok(HeaderAppendAction::AppendIfExistsOrAdd) | Err(_) => {
            HeaderAppendAction::OverwriteIfExistsOrAdd
        }
        Ok(action) => action,
    }
}

fn header(set: &HeaderValueOption) -> Option<(HeaderName, HeaderValue)> {
    let field = set.header.as_ref()?;
    let name = HeaderName::from_str(&field.key).ok()?;
    Some((name, HeaderValue::from_bytes(field.bytes()).ok()?))
}

fn pseudo<'m>(mutation: &'m HeaderMutation, name: &str) -> Option<&'m [u8]> {
    let mut fields = mutation
        .set_headers
        .iter()
        .filter_map(|set| set.header.as_ref());
    fields
        .find(|field| field.key == name)
        .map(WireHeader::bytes)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn set(key: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(WireHeader {
                key: key.to_owned(),
                value: String::new(),
                raw_value: Bytes::copy_from_slice(value.as_bytes()),
            }),
            append: None,
            append_action: action.into(),
        }
    }

    fn unstated(key: &str, value: &str) -> HeaderValueOption {
        set(key, value, HeaderAppendAction::AppendIfExistsOrAdd)
    }

    fn edited(before: &[(&'static str, &'static str)], mutation: &HeaderMutation) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in before {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let mut target = PathAndQuery::from_static("/");
        edit_request(mutation, &mut headers, &mut target);
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().expect("text")))
            .collect();
        lines.sort();
        lines
    }

    fn setting(set_headers: Vec<HeaderValueOption>) -> HeaderMutation {
        HeaderMutation {
            set_headers,
            remove_headers: Vec::new(),
        }
    }

    #[test]
    fn what_is_set_without_an_action_replaces_and_what_is_repeated_stays_whole() {
        let mutation = setting(vec![
            unstated("x", "2"),
            unstated("c", "1"),
            unstated("c", "2"),
        ]);
        let before = [("x", "1"), ("c", "0"), ("c", "9")];
        assert_eq!(edited(&before, &mutation), ["c=1", "c=2", "x=2"]);
    }

    #[test]
    fn what_a_picker_sets_and_copies_from_the_head_is_there_once() {
        let mutation = setting(vec![
            unstated("served", "10.0.0.1:80"),
            unstated("type", "json"),
            unstated("served", "10.0.0.1:80"),
        ]);
        let before = [("served", "10.0.0.1:80"), ("type", "json")];
        let expected = ["served=10.0.0.1:80", "type=json"];
        assert_eq!(edited(&before, &mutation), expected);
    }

    #[test]
    fn stated_actions_are_obeyed() {
        let mut added = unstated("a", "2");
        added.append = Some(true);
        let mutation = setting(vec![
            added,
            set("b", "2", HeaderAppendAction::AddIfAbsent),
            set("c", "2", HeaderAppendAction::AddIfAbsent),
            set("d", "2", HeaderAppendAction::OverwriteIfExists),
            set("e", "2", HeaderAppendAction::OverwriteIfExists),
            set("f", "2", HeaderAppendAction::OverwriteIfExistsOrAdd),
        ]);
        let before = [("a", "1"), ("b", "1"), ("d", "1"), ("f", "1")];
        let expected = ["a=1", "a=2", "b=1", "c=2", "d=2", "f=2"];
        assert_eq!(edited(&before, &mutation), expected);
    }

    #[test]
    fn framing_and_the_connections_headers_are_the_proxys_own() {
        let mutation = HeaderMutation {
            set_headers: [
                "content-length",
                "host",
                "connection",
                "transfer-encoding",
                "not a name",
            ]
            .map(|name| unstated(name, "9"))
            .into(),
            remove_headers: vec!["Gone".into(), "connection".into()],
        };
        assert_eq!(
            edited(&[("gone", "1"), ("stays", "1")], &mutation),
            ["stays=1"]
        );
    }

    #[test]
    fn the_path_of_a_request_and_the_status_of_an_answer_may_change() {
        let mutation = setting(vec![
            unstated(":path", "/v1/completions?x=1"),
            unstated(":method", "DELETE"),
            unstated(":status", "418"),
        ]);
        let (mut headers, mut target) = (HeaderMap::new(), PathAndQuery::from_static("/"));
        edit_request(&mutation, &mut headers, &mut target);
        assert_eq!((target.as_str(), headers.len()), ("/v1/completions?x=1", 0));
        let mut head = http::Response::new(()).into_parts().0;
        edit_answer(&mutation, &mut head);
        assert_eq!(head.status, 418);
        edit_answer(&setting(vec![unstated(":status", "101")]), &mut head);
        assert_eq!(head.status, 418, "an answer has a final status");
    }

    #[test]
    fn a_text_is_found_by_its_name_in_either_field() {
        let mut old = unstated("x-gateway-destination-endpoint", "");
        if let Some(field) = &mut old.header {
            field.value = "10.0.0.1:80".to_owned();
        }
        let mutation = setting(vec![unstated("x", "1"), old]);
        let found = set_text(&mutation, "x-gateway-destination-endpoint");
        assert_eq!(found, Some("10.0.0.1:80"));
        assert_eq!(set_text(&mutation, "y"), None);
    }
}
