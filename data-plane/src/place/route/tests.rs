//! Redirects and rewrites, request by request.

use hermes_core::route::PathEdit;

use super::*;

fn head(uri: &str, host: &str) -> request::Parts {
    let request = http::Request::get(uri).header("host", host).body(());
    request.expect("valid").into_parts().0
}

fn redirect() -> RouteRedirect {
    RouteRedirect {
        scheme: None,
        hostname: None,
        port: None,
        path: None,
        status: 302,
    }
}

fn location(
    redirect: &RouteRedirect,
    uri: &str,
    host: &str,
    scheme: ServerScheme,
) -> Option<String> {
    let found = redirection(redirect, &head(uri, host), Some("/a"), scheme)?;
    Some(found.location.to_str().expect("text").to_owned())
}

#[test]
fn what_a_redirect_does_not_set_is_as_in_the_request() {
    let to = |redirect: RouteRedirect, host: &str, scheme| {
        location(&redirect, "/a/b?c=1", host, scheme).expect("a URL")
    };
    let https = RouteRedirect {
        scheme: Some(ServerScheme::Https),
        ..redirect()
    };
    let elsewhere = RouteRedirect {
        hostname: "e.org".parse().ok(),
        port: std::num::NonZeroU16::new(8443),
        path: Some(PathEdit::Prefix("/x".into())),
        ..redirect()
    };
    let http = ServerScheme::Http;
    for (redirect, host, scheme, expected) in [
        (redirect(), "h:8080", http, "http://h:8080/a/b?c=1"),
        (redirect(), "h:80", http, "http://h/a/b?c=1"),
        (redirect(), "h", ServerScheme::Https, "https://h/a/b?c=1"),
        (https.clone(), "h:8080", http, "https://h/a/b?c=1"),
        (https, "[::1]:80", http, "https://[::1]/a/b?c=1"),
        (elsewhere, "h:80", http, "http://e.org:8443/x/b?c=1"),
    ] {
        assert_eq!(to(redirect, host, scheme), expected);
    }
}

#[test]
fn a_client_cannot_choose_where_a_redirect_leads_by_a_host_that_is_none() {
    for host in [
        "",
        "evil.org/",
        "a b",
        "user@evil.org",
        "evil.org:80:80",
        "evil.org?x",
    ] {
        let found = location(&redirect(), "/a", host, ServerScheme::Http);
        assert_eq!(found, None, "{host}");
    }
}

#[test]
fn a_rewrite_changes_path_and_host_and_keeps_the_query() {
    let rewritten = |edit: Option<PathEdit>, hostname: Option<&str>| {
        let mut head = head("/a/b?c=1", "asked:80");
        let changes = UrlRewrite {
            hostname: hostname.map(|name| name.parse().expect("a name")),
            path: edit,
        };
        let host = rewrite(Some(&changes), &mut head, Some("/a")).expect("a path");
        let forwarded = head.headers.get("x-forwarded-host").cloned();
        (head.uri.to_string(), host, forwarded)
    };
    let asked = HeaderValue::from_static("asked:80");
    let (uri, host, forwarded) = rewritten(Some(PathEdit::Full("/x".into())), None);
    assert_eq!(uri, "/x?c=1");
    assert_eq!(
        (host, forwarded),
        (LegHost::OfAddresses(asked.clone()), None)
    );
    let (uri, host, forwarded) = rewritten(Some(PathEdit::Prefix("".into())), Some("engine"));
    assert_eq!(uri, "/b?c=1");
    let engine = HeaderValue::from_static("engine");
    assert_eq!((host, forwarded), (LegHost::Always(engine), Some(asked)));
}
