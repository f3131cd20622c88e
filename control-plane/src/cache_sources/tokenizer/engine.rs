//! Token ids as the engine itself makes them: vLLM's `POST /tokenize`.
//!
//! ```json
//! {"model":"m","prompt":"…","add_special_tokens":true}
//! {"model":"m","messages":[…],"tools":[…],"chat_template_kwargs":{…},"add_generation_prompt":true, …}
//! ```
//!
//! The answer is `{"count":5,"max_model_len":4096,"tokens":[284,80]}`. Any endpoint of the pool may
//! be asked, as all serve the same model; each has a breaker of its own, so that one that is down
//! is passed over.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use hermes_core::{address::ServerAddress, policy::EndpointTrust};
use minijinja::Value;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Failure, chat::Chat, wanted::TokenizeInput};
use crate::{
    cache_sources::lookup_client::{self, LookupClient, LookupFault, LookupLimits, LookupRequest},
    engines::{EngineClient, EngineClients, EngineKey, NoEngineClient},
};

/// Endpoints that are tried for one prompt, of those that are not left alone.
const TRIES: usize = 2;

/// Asks the engines of one pool.
#[derive(Debug)]
pub(super) struct EngineTokenizer {
    clients: EngineClients,
    limits: LookupLimits,
    key: Option<EngineKey>,
    followed: ArcSwap<FollowedPool>,
    turn: AtomicUsize,
}

/// The pool that was followed last.
#[derive(Debug, Default)]
struct FollowedPool {
    /// Of all its endpoints.
    addresses: Vec<ServerAddress>,
    trust: EndpointTrust,
    /// Those that can be asked.
    endpoints: Vec<TokenizeEndpoint>,
}

#[derive(Clone, Debug)]
struct TokenizeEndpoint {
    engine: EngineClient,
    address: ServerAddress,
    url: Url,
    inquiry: Arc<LookupClient>,
}

/// What is asked, of either kind.
#[derive(Serialize)]
struct TokenizeRequest<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chat_template_kwargs: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    add_generation_prompt: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    continue_final_message: Option<bool>,
    add_special_tokens: bool,
}

#[derive(Deserialize)]
struct TokenizeResponse {
    tokens: Vec<u32>,
}

// === EngineTokenizer ===

impl EngineTokenizer {
    /// Without endpoints until [`EngineTokenizer::follow`] sets them. `key`: what they want.
    ///
    /// # Errors
    /// When the process has no usable TLS configuration.
    pub(super) fn new(
        limits: LookupLimits,
        key: Option<EngineKey>,
    ) -> Result<Self, reqwest::Error> {
        let clients = EngineClients::new(move || lookup_client::builder(limits.connect))?;
        Ok(Self {
            clients,
            limits,
            key,
            followed: ArcSwap::default(),
            turn: AtomicUsize::new(0),
        })
    }

    /// These may be asked from now on, by certificates that `trust` verifies. What is known about
    /// those that stay is kept.
    pub(super) fn follow<'a>(
        &self,
        addresses: impl Iterator<Item = &'a ServerAddress> + Clone,
        trust: &EndpointTrust,
    ) {
        let before = self.followed.load();
        if before.is(addresses.clone(), trust) {
            return;
        }
        let known = before.endpoints.iter().filter(|known| {
            let is_verified_alike = before.trust == *trust || !known.address.is_secured();
            is_verified_alike && !known.engine.is_outdated()
        });
        let known: HashMap<&ServerAddress, &TokenizeEndpoint> =
            known.map(|known| (&known.address, known)).collect();
        let endpoints = addresses.clone().filter_map(|address| {
            if let Some(known) = known.get(address) {
                return Some((*known).clone());
            }
            let endpoint = self.endpoint(address, trust).inspect_err(|error| {
                tracing::warn!(url = %address, %error, "endpoint is not asked for token ids");
            });
            endpoint.ok()
        });
        let followed = FollowedPool {
            endpoints: endpoints.collect(),
            addresses: addresses.cloned().collect(),
            trust: trust.clone(),
        };
        self.followed.store(Arc::new(followed));
    }

    fn endpoint(
        &self,
        address: &ServerAddress,
        trust: &EndpointTrust,
    ) -> Result<TokenizeEndpoint, NoEngineClient> {
        let engine = self.clients.to(address, trust)?;
        let inquiry = LookupClient::with(engine.client.clone(), self.limits);
        Ok(TokenizeEndpoint {
            url: engine.page("/tokenize")?,
            engine,
            address: address.clone(),
            inquiry: Arc::new(inquiry),
        })
    }

    /// The ids that an engine makes of `wanted`.
    pub(super) async fn ids(
        &self,
        wanted: &TokenizeInput,
        model: Option<&str>,
    ) -> Result<Vec<u32>, Failure> {
        if let TokenizeInput::Ids(ids) = wanted {
            return Ok(ids.to_vec());
        }
        let authorization = match &self.key {
            Some(key) => key.header().await,
            None => None,
        };
        let followed = self.followed.load_full();
        let endpoints = &followed.endpoints;
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut tries = 0;
        let mut failure = Failure::Absent;
        for endpoint in
            (0..endpoints.len()).map(|step| &endpoints[(first + step) % endpoints.len()])
        {
            let question = || {
                let body = body(wanted, model)?;
                Ok::<_, Failure>(LookupRequest {
                    authorization: authorization.clone(),
                    ..LookupRequest::json(endpoint.url.clone(), body)
                })
            };
            match endpoint.inquiry.ask(question).await {
                Ok(answer) => return read(&answer),
                Err(found) => failure = found,
            }
            // One that is left alone costs nothing; after another kind of failure there is seldom
            // time for many more.
            tries += usize::from(failure != Failure::Engine(LookupFault::Open));
            if tries == TRIES || !matches!(failure, Failure::Engine(_)) {
                break;
            }
        }
        Err(failure)
    }
}

// === FollowedPool ===

impl FollowedPool {
    /// Whether it is the pool with these endpoints and this trust, whichever of them can be asked,
    /// and no client is to be replaced.
    fn is<'a>(
        &self,
        addresses: impl Iterator<Item = &'a ServerAddress>,
        trust: &EndpointTrust,
    ) -> bool {
        let is_outdated = |endpoint: &TokenizeEndpoint| endpoint.engine.is_outdated();
        self.trust == *trust
            && self.addresses.iter().eq(addresses)
            && !self.endpoints.iter().any(is_outdated)
    }
}

impl From<LookupFault> for Failure {
    fn from(fault: LookupFault) -> Self {
        Self::Engine(fault)
    }
}

// === Steps ===

fn body(wanted: &TokenizeInput, model: Option<&str>) -> Result<Vec<u8>, Failure> {
    let body = match wanted {
        TokenizeInput::Ids(_) => return Err(Failure::Unsupported),
        TokenizeInput::Text { text, special } => TokenizeRequest {
            model,
            prompt: Some(text),
            messages: None,
            tools: None,
            chat_template_kwargs: None,
            add_generation_prompt: None,
            continue_final_message: None,
            add_special_tokens: *special,
        },
        TokenizeInput::Chat(chat) => of_chat(chat, model)?,
    };
    serde_json::to_vec(&body).map_err(|_| Failure::Malformed)
}

/// `/tokenize` has no fields for an effort and for documents, but its `chat_template_kwargs` reach
/// the same variables.
fn of_chat<'a>(chat: &'a Chat, model: Option<&'a str>) -> Result<TokenizeRequest<'a>, Failure> {
    let kwargs = chat.kwargs()?;
    Ok(TokenizeRequest {
        model,
        prompt: None,
        messages: Some(raw(&chat.messages)?),
        tools: chat.tools.as_deref().map(raw).transpose()?,
        chat_template_kwargs: (!kwargs.is_empty()).then(|| Value::from_pairs(kwargs)),
        add_generation_prompt: Some(chat.generates),
        continue_final_message: Some(chat.continues),
        add_special_tokens: chat.special,
    })
}

/// Exactly one JSON value, so that no prompt can add fields of its own to the question.
fn raw(json: &[u8]) -> Result<&RawValue, Failure> {
    serde_json::from_slice(json).map_err(|_| Failure::Malformed)
}

fn read(answer: &[u8]) -> Result<Vec<u32>, Failure> {
    let answer: TokenizeResponse =
        serde_json::from_slice(answer).map_err(|_| LookupFault::Garbage)?;
    Ok(answer.tokens)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::{super::limits, *};

    #[tokio::test]
    async fn a_pool_that_did_not_change_is_followed_once_even_if_an_endpoint_has_no_client() {
        hermes_runtime::crypto::install_default_crypto();
        let tokenizer =
            EngineTokenizer::new(limits(Duration::from_secs(1)), None).expect("TLS is set up");
        // The second is no name to the client, which reads international ones.
        let addresses = ["http://engine:8000", "http://xn--a:8000"]
            .map(|url| ServerAddress::parse(url).expect("an address"));
        let follow = |trust: &EndpointTrust| {
            tokenizer.follow(addresses.iter(), trust);
            tokenizer.followed.load_full()
        };
        let first = follow(&EndpointTrust::System);
        assert_eq!(first.endpoints.len(), 1, "the other cannot be asked");
        let again = follow(&EndpointTrust::System);
        assert!(Arc::ptr_eq(&first, &again));

        let rotated = follow(&EndpointTrust::Authorities("new".into()));
        let inquiry = |followed: &FollowedPool| Arc::clone(&followed.endpoints[0].inquiry);
        assert!(
            Arc::ptr_eq(&inquiry(&first), &inquiry(&rotated)),
            "authorities do not concern an endpoint without TLS"
        );
    }

    fn asked(wanted: &TokenizeInput) -> Json {
        serde_json::from_slice(&body(wanted, Some("m")).expect("a question")).expect("JSON")
    }

    #[test]
    fn a_chat_request_carries_every_input_of_its_template() {
        let chat = Chat {
            messages: Bytes::from_static(br#"[ {"role":"user","content":"hi"} ]"#),
            tools: Some(Bytes::from_static(b"[]")),
            template_kwargs: Some(Bytes::from_static(br#"{"x":1}"#)),
            effort: Some("low".into()),
            generates: true,
            ..Chat::default()
        };
        let expected = json!({
            "model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": [],
            "chat_template_kwargs": {"x": 1, "enable_thinking": true, "reasoning_effort": "low"},
            "add_generation_prompt": true, "continue_final_message": false, "add_special_tokens": false,
        });
        assert_eq!(asked(&TokenizeInput::Chat(Box::new(chat))), expected);
    }

    #[test]
    fn a_prompt_is_asked_as_it_is() {
        let wanted = TokenizeInput::Text {
            text: "a \"b\"".into(),
            special: true,
        };
        assert_eq!(
            asked(&wanted),
            json!({"model": "m", "prompt": "a \"b\"", "add_special_tokens": true})
        );
    }

    #[test]
    fn a_conversation_cannot_add_fields_to_the_question() {
        let smuggled = Chat {
            messages: Bytes::from_static(br#"[],"model":"other""#),
            ..Chat::default()
        };
        assert_eq!(
            body(&TokenizeInput::Chat(Box::new(smuggled)), None),
            Err(Failure::Malformed)
        );
    }

    #[test]
    fn the_answer_of_a_real_engine_is_read() {
        let answer = br#"{"count":5,"max_model_len":4096,"tokens":[284,80,333,1235,1396],"token_strs":null}"#;
        assert_eq!(read(answer), Ok(vec![284, 80, 333, 1235, 1396]));
        assert_eq!(
            read(br#"{"tokens":[-1]}"#),
            Err(Failure::Engine(LookupFault::Garbage))
        );
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(answer in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = read(&answer);
        }
    }
}
