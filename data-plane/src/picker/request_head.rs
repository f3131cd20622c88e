//! The head of a request, as a gateway shows it: headers, with the request line as pseudo-headers
//! (RFC 9113, 8.3.1), and metadata.

use std::net::IpAddr;

use hermes_proto::{
    Kind, Struct, Value,
    ext_proc::{HeaderMap as WireHeaders, HeaderValue as WireHeader, Metadata},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use crate::{place::EndpointSubset, request::local_reply::LocalReply};

/// Fields of a head that are taken. More would be hashed and copied on the way to the reply that
/// the head is too large.
const MAX_FIELDS: usize = 1_024;

/// The namespace, and the key in it, by which a gateway names the only endpoints that may be
/// chosen.
const SUBSET: (&str, &str) = (
    "envoy.lb.subset_hint",
    "x-gateway-destination-endpoint-subset",
);

/// The request line and the headers of a request.
#[derive(Debug, Default)]
pub(super) struct RequestHead {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
}

impl RequestHead {
    /// Reads a head.
    ///
    /// # Errors
    /// When it has no path, or too many fields.
    pub(super) fn read(wire: Option<&WireHeaders>) -> Result<Self, LocalReply> {
        let fields = wire.map_or(&[][..], |wire| &wire.headers);
        if fields.len() > MAX_FIELDS {
            return Err(LocalReply::HeadTooLarge(MAX_FIELDS));
        }
        let pseudo = |name: &str| {
            let mut found = fields.iter().filter(|field| field.key == name);
            found.next().map(WireHeader::bytes)
        };
        let method = pseudo(":method").and_then(|method| Method::from_bytes(method).ok());
        let path = pseudo(":path").and_then(|path| Uri::try_from(path).ok());
        Ok(Self {
            method: method.ok_or(LocalReply::UnknownPath)?,
            uri: path.ok_or(LocalReply::UnknownPath)?,
            headers: headers(fields),
        })
    }

    /// The address of the client, as the gateway has appended it.
    pub(super) fn client(&self) -> Option<IpAddr> {
        let list = self.headers.get_all("x-forwarded-for").iter().next_back()?;
        let last = list.to_str().ok()?.rsplit(',').next()?;
        last.trim().parse().ok()
    }
}

/// The status and the headers of an answer; `None` without a status.
pub(super) fn answer_head(wire: Option<&WireHeaders>) -> Option<http::response::Parts> {
    let fields = &wire?.headers;
    let status = fields.iter().find(|field| field.key == ":status")?;
    let mut head = http::Response::new(()).into_parts().0;
    head.status = StatusCode::from_bytes(status.bytes()).ok()?;
    head.headers = headers(&fields[..fields.len().min(MAX_FIELDS)]);
    Some(head)
}

/// The endpoints that may be chosen, if the gateway names them.
pub(super) fn subset(metadata: Option<&Metadata>) -> Option<EndpointSubset> {
    let value = field(metadata, SUBSET.0, SUBSET.1)?;
    Some(match &value.kind {
        Some(Kind::StringValue(list)) => EndpointSubset::of(list.split(',')),
        Some(Kind::ListValue(list)) => EndpointSubset::of(list.values.iter().filter_map(text)),
        _ => EndpointSubset::default(),
    })
}

/// The text at a key of a namespace.
pub(super) fn metadata_text<'m>(
    metadata: Option<&'m Metadata>,
    namespace: &str,
    key: &str,
) -> Option<&'m str> {
    text(field(metadata, namespace, key)?)
}

fn field<'m>(metadata: Option<&'m Metadata>, namespace: &str, key: &str) -> Option<&'m Value> {
    let Struct { fields } = metadata?.filter_metadata.get(namespace)?;
    fields.get(key)
}

fn text(value: &Value) -> Option<&str> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

/// What is no header of HTTP/1.1 is left out: pseudo-headers, and names that it cannot have.
fn headers(fields: &[WireHeader]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        if field.key == ":authority" {
            if let Ok(host) = HeaderValue::from_bytes(field.bytes()) {
                headers.insert(header::HOST, host);
            }
            continue;
        }
        let name = HeaderName::from_bytes(field.key.as_bytes());
        let value = HeaderValue::from_bytes(field.bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn wire(fields: &[(&str, &str)]) -> WireHeaders {
        let field = |(key, value): &(&str, &str)| WireHeader {
            key: (*key).to_owned(),
            value: String::new(),
            raw_value: Bytes::copy_from_slice(value.as_bytes()),
        };
        WireHeaders {
            headers: fields.iter().map(field).collect(),
        }
    }

    fn hint(value: Kind) -> Metadata {
        let value = Value { kind: Some(value) };
        let fields = [(SUBSET.1.to_owned(), value)].into_iter().collect();
        Metadata {
            filter_metadata: HashMap::from([(SUBSET.0.to_owned(), Struct { fields })]),
        }
    }

    #[test]
    fn pseudo_headers_are_the_request_line_and_the_authority_is_the_host() {
        let head = RequestHead::read(Some(&wire(&[
            (":authority", "models.example"),
            (":method", "POST"),
            (":path", "/v1/chat/completions?a=1"),
            (":scheme", "http"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("x-forwarded-for", "10.0.0.1, 10.0.0.2"),
        ])))
        .expect("a head");
        assert_eq!(
            (head.method.as_str(), head.uri.query()),
            ("POST", Some("a=1"))
        );
        assert_eq!(head.headers[header::HOST], "models.example");
        assert_eq!(head.headers.get_all("cookie").iter().count(), 2);
        assert_eq!(head.client(), Some([10, 0, 0, 2].into()));
    }

    #[test]
    fn a_value_is_read_from_the_field_of_older_gateways_too() {
        let field = WireHeader {
            key: ":path".to_owned(),
            value: "/old".to_owned(),
            raw_value: Bytes::new(),
        };
        assert_eq!(field.bytes(), b"/old");
    }

    #[test]
    fn a_head_without_a_path_or_with_very_many_fields_is_a_clients_error() {
        let error = |wire: &WireHeaders| RequestHead::read(Some(wire)).expect_err("no head");
        assert_eq!(error(&wire(&[(":method", "GET")])), LocalReply::UnknownPath);
        let many = wire(&vec![("x", "y"); MAX_FIELDS + 1]);
        assert_eq!(error(&many), LocalReply::HeadTooLarge(MAX_FIELDS));
    }

    #[test]
    fn a_subset_is_a_list_or_a_text_and_anything_else_names_no_endpoint() {
        let of = |metadata: &Metadata| subset(Some(metadata)).expect("there is a hint");
        let expected = EndpointSubset::of(["10.0.0.1:8000", "10.0.0.2"]);
        let text = Kind::StringValue("10.0.0.1:8000,10.0.0.2".to_owned());
        assert_eq!(of(&hint(text)), expected);
        let values = ["10.0.0.1:8000", "10.0.0.2"].map(|address| Value {
            kind: Some(Kind::StringValue(address.to_owned())),
        });
        let list = Kind::ListValue(hermes_proto::ListValue {
            values: values.into(),
        });
        assert_eq!(of(&hint(list)), expected);
        assert_eq!(of(&hint(Kind::BoolValue(true))), EndpointSubset::default());
        assert_eq!(subset(Some(&Metadata::default())), None);
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_head_are_too_strange(
            fields in proptest::collection::vec((".{0,12}", proptest::collection::vec(any::<u8>(), 0..20)), 0..12),
        ) {
            let headers = fields.into_iter().map(|(key, value)| WireHeader {
                key,
                value: String::new(),
                raw_value: value.into(),
            });
            let wire = WireHeaders { headers: headers.collect() };
            let _read = RequestHead::read(Some(&wire));
            prop_assert!(answer_head(Some(&wire)).is_none() || wire.headers.iter().any(|field| field.key == ":status"));
        }
    }
}
