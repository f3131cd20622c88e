//! What a list or watch request asks for.

use std::{str::FromStr, time::Duration};

use hyper::Uri;
use serde_json::Value;

use super::{collection::Collection, refusal::Refusal, selector::Selector};

/// A list or watch request, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) scope: Scope,
    pub(crate) watch: bool,
    pub(crate) bookmarks: bool,
    /// Where a watch begins; `None` means now.
    pub(crate) version: Option<u64>,
    /// How long a watch may last.
    pub(crate) timeout: Duration,
    /// Objects per page of a list; zero means all.
    pub(crate) limit: usize,
    pub(crate) page: Option<Page>,
}

/// Which objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) collection: Collection,
    /// `None` means all namespaces.
    pub(crate) namespace: Option<String>,
    pub(crate) selector: Selector,
    /// The one object of this name, if one is named.
    pub(crate) name: Option<String>,
}

/// Where the next page of a list begins; its text is the `continue` token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// The version of the first page, which is that of the whole list.
    pub(crate) version: u64,
    pub(crate) after: (String, String),
}

// === Query ===

impl Query {
    /// # Errors
    ///
    /// When the path names no collection or a parameter cannot be read.
    pub(crate) fn parse(uri: &Uri) -> Result<Self, Refusal> {
        let (collection, namespace) =
            Collection::parse(uri.path()).ok_or_else(Refusal::not_found)?;
        let scope = Scope {
            collection,
            namespace,
            selector: Selector::default(),
            name: None,
        };
        let timeout = Duration::from_secs(1800);
        let mut query = Self {
            scope,
            watch: false,
            bookmarks: false,
            version: None,
            timeout,
            limit: 0,
            page: None,
        };
        for pair in uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).ok_or_else(|| Refusal::bad_parameter(name))?;
            query.set(name, &value)?;
        }
        Ok(query)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        match name {
            "watch" => self.watch = is_true(value),
            "allowWatchBookmarks" => self.bookmarks = is_true(value),
            // Version zero means "any"; the newest will do.
            "resourceVersion" if matches!(value, "" | "0") => {}
            "resourceVersion" => self.version = Some(read(name, value)?),
            "timeoutSeconds" => {
                self.timeout = Duration::from_secs(u64::from(read::<u32>(name, value)?));
            }
            "limit" => self.limit = read(name, value)?,
            "continue" if value.is_empty() => {}
            "continue" => self.page = Some(read(name, value)?),
            "labelSelector" => {
                self.scope.selector =
                    Selector::parse(value).map_err(|_| Refusal::bad_parameter(name))?;
            }
            "sendInitialEvents" if is_true(value) => return Err(Refusal::no_watch_list()),
            "fieldSelector" if !value.is_empty() => {
                let named = value.strip_prefix("metadata.name=");
                let named = named.ok_or_else(|| Refusal::bad_parameter(name))?;
                self.scope.name = Some(named.to_owned());
            }
            _ => {}
        }
        Ok(())
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "1" | "true")
}

fn read<T: FromStr>(name: &str, value: &str) -> Result<T, Refusal> {
    value.parse().map_err(|_| Refusal::bad_parameter(name))
}

/// Decodes one value of a query string (`application/x-www-form-urlencoded`).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (hex, tail) = tail.split_at_checked(2)?;
                bytes.push(u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok()?);
                rest = tail;
            }
            plain => bytes.push(plain),
        }
    }
    String::from_utf8(bytes).ok()
}

// === Scope ===

impl Scope {
    /// Whether an object of this scope's collection and namespace matches the selector.
    pub(crate) fn selects(&self, object: &Value) -> bool {
        let is_named = |name: &String| object["metadata"]["name"] == **name;
        self.selector.matches(object) && self.name.as_ref().is_none_or(is_named)
    }

    pub(crate) fn spans(&self, collection: &Collection, namespace: &str) -> bool {
        self.collection == *collection
            && self.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}

// === Page ===

impl Page {
    pub(crate) fn token(&self) -> String {
        let Self {
            version,
            after: (namespace, name),
        } = self;
        format!("{version}/{namespace}/{name}")
    }
}

impl FromStr for Page {
    type Err = ();

    fn from_str(token: &str) -> Result<Self, ()> {
        let mut parts = token.splitn(3, '/');
        let mut part = || parts.next().ok_or(());
        let version = part()?.parse().map_err(|_| ())?;
        Ok(Self {
            version,
            after: (part()?.to_owned(), part()?.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(uri: &str) -> Result<Query, Refusal> {
        Query::parse(&uri.parse().unwrap())
    }

    #[test]
    fn a_watch_is_read_with_everything_it_asks_for() {
        let uri = "/api/v1/namespaces/ai/pods?&watch=true&timeoutSeconds=60&labelSelector=app%3Dvllm\
                   &allowWatchBookmarks=true&resourceVersion=7";
        let query = parse(uri).unwrap();
        assert!(query.watch && query.bookmarks);
        assert_eq!(
            (query.version, query.timeout),
            (Some(7), Duration::from_secs(60))
        );
        assert_eq!(query.scope.selector, Selector::parse("app=vllm").unwrap());
        assert_eq!(query.scope.namespace.as_deref(), Some("ai"));
    }

    #[test]
    fn a_page_token_comes_back_as_it_went_out() {
        let page = Page {
            version: 9,
            after: ("ai".to_owned(), "a".to_owned()),
        };
        let query = parse(&format!("/api/v1/pods?limit=2&continue={}", page.token())).unwrap();
        assert_eq!((query.limit, query.page), (2, Some(page)));
    }

    #[test]
    fn what_cannot_be_honored_is_refused() {
        for (uri, code) in [
            ("/metrics", 404),
            ("/api/v1/pods?watch=1&sendInitialEvents=true", 422),
            ("/api/v1/pods?resourceVersion=x", 400),
            ("/api/v1/pods?labelSelector=%2", 400),
            ("/api/v1/pods?labelSelector=a+in+(b)", 400),
            ("/api/v1/pods?fieldSelector=a", 400),
        ] {
            assert_eq!(parse(uri).unwrap_err().status().as_u16(), code, "{uri}");
        }
    }

    proptest! {
        #[test]
        fn no_query_is_too_odd_to_read(query in "[ -~&&[^#<>\"`{} ]]{0,60}") {
            if let Ok(uri) = format!("/api/v1/pods?{query}").parse() {
                let _ = Query::parse(&uri);
            }
        }
    }
}
