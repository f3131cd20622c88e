//! Where a gateway is to send a request, and how the head of it changes on the way.

use hermes_proto::{
    Kind, Struct, Value,
    ext_proc::{HeaderMutation, HeaderValueOption, ProcessingResponse},
};
use hermes_runtime::propagation::{self, TRACEPARENT, TRACESTATE};
use http::{HeaderMap, header, uri::PathAndQuery};

use super::messages::{set, set_named};
use crate::{
    exchange::gateway::GatewayOrder,
    request::headers::{self, REQUEST_ID},
};

/// The header, and the key of the metadata, with the endpoints in order: `ip:port,ip:port`.
const DESTINATION: &str = "x-gateway-destination-endpoint";

/// The namespace of the metadata that load balancers read.
pub(super) const LOAD_BALANCING: &str = "envoy.lb";

/// The endpoints of one request, and the changes to its head.
#[derive(Debug)]
pub(super) struct Destination {
    /// The best one first, separated by commas.
    endpoints: String,
    pub(super) head: HeaderMutation,
}

impl Destination {
    /// `shown`: the head as the gateway has it, with this path. `body`: whether the gateway holds
    /// the request back until it has all of the body, so that its length can be stated.
    pub(super) fn of(
        order: &GatewayOrder,
        (shown, path): (&HeaderMap, Option<&PathAndQuery>),
        states_length: bool,
    ) -> Self {
        let sockets = order.sockets.iter().map(ToString::to_string);
        let endpoints = sockets.collect::<Vec<_>>().join(",");
        let mut set_headers = vec![set_named(DESTINATION, endpoints.as_bytes())];
        if path != Some(&order.target) {
            set_headers.push(set_named(":path", order.target.as_str().as_bytes()));
        }
        for name in [REQUEST_ID, header::VIA] {
            if let Some(value) = order.headers.get(&name) {
                set_headers.push(set(&name, value.as_bytes()));
            }
        }
        let extra = order.extra_headers.iter();
        set_headers.extend(extra.map(|(name, value)| set(name, value.as_bytes())));
        if states_length {
            let length = order.body.len().to_string();
            set_headers.push(set(&header::CONTENT_LENGTH, length.as_bytes()));
        }
        trace(order, &mut set_headers);
        Self {
            endpoints,
            head: HeaderMutation {
                remove_headers: removed(shown, &set_headers),
                set_headers,
            },
        }
    }

    /// The same endpoints in the metadata that load balancers read, in this message.
    pub(super) fn describe(&self, message: &mut ProcessingResponse) {
        let text = Value {
            kind: Some(Kind::StringValue(self.endpoints.clone())),
        };
        let balancing = Value {
            kind: Some(Kind::StructValue(Struct {
                fields: [(DESTINATION.to_owned(), text)].into_iter().collect(),
            })),
        };
        message.dynamic_metadata = Some(Struct {
            fields: [(LOAD_BALANCING.to_owned(), balancing)]
                .into_iter()
                .collect(),
        });
    }
}

/// The endpoint's span is a child of this process's.
fn trace(order: &GatewayOrder, set_headers: &mut Vec<HeaderValueOption>) {
    let Some(context) = &order.context else {
        return;
    };
    let (parent, state) = propagation::inject_pair(context);
    if !parent.is_empty() {
        set_headers.push(set(&TRACEPARENT, parent.as_bytes()));
    }
    if !state.is_empty() {
        set_headers.push(set(&TRACESTATE, state.as_bytes()));
    }
}

/// What clients must not send to endpoints, without what is set in place of it.
fn removed(shown: &HeaderMap, set_headers: &[HeaderValueOption]) -> Vec<String> {
    let is_set = |name: &str| {
        let mut set = set_headers.iter().filter_map(|set| set.header.as_ref());
        set.any(|header| header.key == name)
    };
    let names = shown.keys().map(http::HeaderName::as_str);
    let removed = names.filter(|name| headers::is_for_the_router(name) && !is_set(name));
    removed.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::request::leg_body::LegBody;

    fn order() -> GatewayOrder {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("req-1"));
        GatewayOrder {
            sockets: ["10.0.0.1:8000", "[fd00::1]:8000"]
                .map(|text| text.parse().expect("one"))
                .into_iter()
                .collect(),
            target: PathAndQuery::from_static("/v1/chat/completions"),
            headers,
            extra_headers: Vec::new(),
            context: None,
            body: LegBody::default(),
            is_edited: false,
        }
    }

    fn value(head: &HeaderMutation, name: &str) -> Option<String> {
        let mut set = head
            .set_headers
            .iter()
            .filter_map(|set| set.header.as_ref());
        let found = set.find(|header| header.key == name)?;
        Some(String::from_utf8_lossy(&found.raw_value).into_owned())
    }

    #[test]
    fn the_endpoints_are_in_a_header_and_in_the_metadata_in_the_same_order() {
        let path = PathAndQuery::from_static("/v1/chat/completions");
        let destination = Destination::of(&order(), (&HeaderMap::new(), Some(&path)), false);
        let expected = "10.0.0.1:8000,[fd00::1]:8000";
        assert_eq!(
            value(&destination.head, DESTINATION).as_deref(),
            Some(expected)
        );
        assert_eq!(value(&destination.head, ":path"), None, "it stays");
        let mut message = ProcessingResponse::default();
        destination.describe(&mut message);
        let metadata = format!("{:?}", message.dynamic_metadata.expect("some"));
        assert!(
            metadata.contains(LOAD_BALANCING) && metadata.contains(expected),
            "{metadata}"
        );
    }

    #[test]
    fn headers_that_steer_a_router_are_removed_and_what_is_set_is_not() {
        let mut shown = HeaderMap::new();
        for name in [
            "x-prefiller-host-port",
            DESTINATION,
            "accept-encoding",
            "authorization",
        ] {
            shown.insert(name, HeaderValue::from_static("10.6.6.6:1"));
        }
        let head = Destination::of(&order(), (&shown, None), false).head;
        let mut removed = head.remove_headers.clone();
        removed.sort();
        assert_eq!(removed, ["accept-encoding", "x-prefiller-host-port"]);
        assert_eq!(
            value(&head, ":path").as_deref(),
            Some("/v1/chat/completions")
        );
    }
}
