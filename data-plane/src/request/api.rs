//! The APIs, and the paths at which they are served.

use http::Method;

/// The prefix under which the original hermes-router served the OpenAI paths.
const ORIGINAL_PREFIX: &str = "/rest/hermes-router/v1beta1";

/// The APIs that are routed by the model in a JSON body, and the few that are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/responses`
    Responses,
    /// `/v1/responses/{id}` and below: bound to the endpoint that made the response.
    StoredResponse,
    /// `POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's shape.
    Messages,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/rerank`, `/v1/score`, `/tokenize`, `/detokenize`: routed by model only.
    Plain,
    /// `GET /v1/models`, answered by the proxy itself.
    Models,
    /// `GET /v1/models/{model}`, answered by the proxy itself.
    Model,
    /// A path that the operator added.
    Extra,
}

/// A path that is served: its API, and its path at the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ApiRoute<'a> {
    pub(crate) api: Api,
    /// Path for the engine, without the original's prefix and misspelling; no query.
    pub(crate) path: &'a str,
    /// For traces and metrics: a template, never a client's value.
    pub(crate) template: &'static str,
}

/// Why a path is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unrouted {
    /// Nothing is served there.
    Path,
    /// Served, but for these methods only.
    Method(&'static str),
}

/// Looks up the path; `extra` are the paths that the operator added.
pub(crate) fn route<'a>(
    method: &Method,
    path: &'a str,
    extra: &[impl AsRef<str>],
) -> Result<ApiRoute<'a>, Unrouted> {
    let path = match path.strip_prefix(ORIGINAL_PREFIX) {
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    };
    let Some((api, path, template)) = known(path) else {
        return if extra.iter().any(|known| known.as_ref() == path) {
            Ok(ApiRoute::extra(path))
        } else {
            Err(Unrouted::Path)
        };
    };
    let (allowed, names): (&[Method], _) = match api {
        // RFC 9110, 9.1: general-purpose servers support both.
        Api::Models | Api::Model => (&[Method::GET, Method::HEAD], "GET, HEAD"),
        Api::StoredResponse | Api::Extra => (&[], ""),
        Api::Chat
        | Api::Completions
        | Api::Responses
        | Api::Messages
        | Api::Embeddings
        | Api::Plain => (&[Method::POST], "POST"),
    };
    if !allowed.is_empty() && !allowed.contains(method) {
        return Err(Unrouted::Method(names));
    }
    Ok(ApiRoute {
        api,
        path,
        template,
    })
}

impl<'a> ApiRoute<'a> {
    /// A path that is forwarded as it is.
    pub(crate) const fn extra(path: &'a str) -> Self {
        Self {
            api: Api::Extra,
            path,
            template: "extra",
        }
    }
}

fn known(path: &str) -> Option<(Api, &str, &'static str)> {
    Some(match path {
        // The original's documentation misspells the path, so its clients do too.
        "/v1/chat/completions" | "/v1/chat/completons" => {
            (Api::Chat, "/v1/chat/completions", "/v1/chat/completions")
        }
        "/v1/completions" => (Api::Completions, path, "/v1/completions"),
        "/v1/responses" => (Api::Responses, path, "/v1/responses"),
        "/v1/messages" => (Api::Messages, path, "/v1/messages"),
        "/v1/messages/count_tokens" => (Api::Messages, path, "/v1/messages/count_tokens"),
        "/v1/embeddings" => (Api::Embeddings, path, "/v1/embeddings"),
        "/v1/rerank" => (Api::Plain, path, "/v1/rerank"),
        "/v1/score" => (Api::Plain, path, "/v1/score"),
        "/tokenize" => (Api::Plain, path, "/tokenize"),
        "/detokenize" => (Api::Plain, path, "/detokenize"),
        "/v1/models" => (Api::Models, path, "/v1/models"),
        _ if path.starts_with("/v1/models/") => (Api::Model, path, "/v1/models/{model}"),
        _ if below(path, "/v1/responses/") => (Api::StoredResponse, path, "/v1/responses/{id}"),
        _ => return None,
    })
}

/// Whether `path` is one below `parent` for every server that may read it: what stands between an
/// engine and its port may decode, join or remove segments, and reach another path by it. So none
/// is empty or made of dots, and all consist of characters that are never encoded (RFC 3986, 2.3).
fn below(path: &str, parent: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let is_plain =
        |segment: &str| segment.bytes().all(unreserved) && segment.bytes().any(|byte| byte != b'.');
    path.strip_prefix(parent)
        .is_some_and(|rest| rest.split('/').all(is_plain))
}

impl Api {
    /// `gen_ai.operation.name`.
    pub(crate) const fn operation(self) -> &'static str {
        match self {
            Self::Chat | Self::Messages | Self::Responses | Self::StoredResponse => "chat",
            Self::Completions => "text_completion",
            Self::Embeddings => "embeddings",
            Self::Plain | Self::Models | Self::Model | Self::Extra => "other",
        }
    }

    /// Whether the body is JSON that names a model. An added path may carry anything; see
    /// [`super::extra_body`].
    pub(crate) const fn reads_json(self) -> bool {
        !matches!(self, Self::StoredResponse | Self::Extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [&str; 0] = [];

    fn chat(path: &str) -> ApiRoute<'_> {
        route(&Method::POST, path, &NONE).expect("served")
    }

    #[test]
    fn the_originals_prefix_and_misspelling_are_served() {
        for path in [
            "/v1/chat/completions",
            "/v1/chat/completons",
            "/rest/hermes-router/v1beta1/v1/chat/completions",
            "/rest/hermes-router/v1beta1/v1/chat/completons",
        ] {
            let ApiRoute {
                api,
                path: upstream,
                ..
            } = chat(path);
            assert_eq!(
                (api, upstream),
                (Api::Chat, "/v1/chat/completions"),
                "{path}"
            );
        }
        assert_eq!(
            chat("/rest/hermes-router/v1beta1/tokenize").path,
            "/tokenize"
        );
    }

    #[test]
    fn other_paths_of_an_engine_are_routed_only_if_configured() {
        let post = |path, extra: &[&str]| route(&Method::POST, path, extra).map(|route| route.api);
        assert_eq!(post("/reset_prefix_cache", &[]), Err(Unrouted::Path));
        assert_eq!(post("/v1/load_lora_adapter", &[]), Err(Unrouted::Path));
        assert_eq!(post("/pooling", &["/pooling"]), Ok(Api::Extra));
        assert_eq!(
            post("/rest/hermes-router/v1beta1x/tokenize", &[]),
            Err(Unrouted::Path)
        );
    }

    #[test]
    fn a_wrong_method_names_the_right_one() {
        assert_eq!(
            route(&Method::GET, "/v1/chat/completions", &NONE),
            Err(Unrouted::Method("POST"))
        );
        assert_eq!(
            route(&Method::POST, "/v1/models", &NONE),
            Err(Unrouted::Method("GET, HEAD"))
        );
        assert!(route(&Method::DELETE, "/v1/responses/resp_1", &NONE).is_ok());
    }

    #[test]
    fn models_are_served_without_a_body_too() {
        assert!(route(&Method::HEAD, "/v1/models", &NONE).is_ok());
        assert!(route(&Method::HEAD, "/v1/models/Qwen%2FQwen3", &NONE).is_ok());
    }

    #[test]
    fn a_path_below_another_is_the_same_path_for_every_server() {
        let routed = |below: &str| {
            let prefixes = ["", ORIGINAL_PREFIX];
            prefixes.map(|prefix| {
                let path = format!("{prefix}/v1/responses/{below}");
                route(&Method::POST, &path, &NONE).map(|route| route.api)
            })
        };
        for plain in ["resp_1", "resp_1/cancel", "a.b-c~d/input_items"] {
            assert_eq!(routed(plain), [Ok(Api::StoredResponse); 2], "{plain}");
        }
        for other in [
            "",
            "/",
            "resp_1/",
            "resp_1//cancel",
            ".",
            "..",
            "...",
            "resp_1/../../load_lora_adapter",
            "resp_1/./cancel",
            "resp_1/%2e%2e/%2E%2E/load_lora_adapter",
            "resp_1/..%2f..%2fcollective_rpc",
            "resp_1%2Fcancel",
            "resp_1/..;/x",
            "resp_1\\..\\x",
            "resp_1/%5c..",
            "resp_1/\u{ff0e}\u{ff0e}/x",
        ] {
            assert_eq!(routed(other), [Err(Unrouted::Path); 2], "{other}");
        }
    }
}
