//! A client's request with what routing reads of it.

mod edited_request;

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use hermes_core::{
    address::MAX_BASE_PATH, policy::Strategy, query::Query, snapshot::PoolSpec,
    stored_responses::ResponseKey,
};
use hermes_proto::v1::PromptText;
use http::{HeaderMap, Method, uri::PathAndQuery};

pub(crate) use self::edited_request::EditedRequest;
use crate::request::{
    api::{Api, ApiRoute},
    body_edit::{self, BodyEdit, FieldPositions},
    control_fields::{CONTROL_FIELDS, EXTRA_ARGUMENTS},
    extra_body::{self, ExtraBody},
    fields::{BodyFields, FieldScanner, UnreadableBody},
    headers,
    identity::{self, ClientIdentity},
    leg_body::LegBody,
    local_reply::LocalReply,
    lookup,
    prompt::RequestPrompt,
    request_body::{BodySpan, RequestBody},
    route_terms::RouteTerms,
    stream_options,
};

/// Longest path and query in bytes: with a base path before them, they are a target still, of at
/// most `u16::MAX - 1` bytes.
pub(crate) const MAX_TARGET: usize = u16::MAX as usize - 2 - MAX_BASE_PATH;

/// A client's request, parsed and not routed yet.
#[derive(Clone)]
pub(crate) struct InferenceRequest {
    pub(crate) api: Api,
    pub(crate) method: Method,
    /// Path and query at the engine.
    pub(crate) target: PathAndQuery,
    /// The client's headers, cleaned for an endpoint.
    pub(crate) headers: HeaderMap,
    /// Of the route that it follows. Boxed: many requests follow none.
    pub(crate) terms: Option<Box<RouteTerms>>,
    /// The client's bytes.
    body: RequestBody,
    positions: FieldPositions,
    /// The model that endpoints are asked for: the client's, unless the pool rewrites it.
    pub(crate) model: Option<String>,
    /// Where a form names it. Boxed: few bodies are forms.
    form_model: Option<Box<BodySpan>>,
    rewritten: Option<Box<RewrittenModel>>,
    /// As another picker edited it. Boxed: few requests are.
    edited: Option<Box<EditedRequest>>,
    pub(crate) stream: bool,
    /// The parts of the body that a selection uses.
    pub(crate) prompt: RequestPrompt,
    /// The stored response that this request continues or refers to. Boxed: few requests do.
    pub(crate) response: Option<Box<ResponseReference>>,
    /// The endpoint keeps the response, or works on it after its answer.
    has_side_effects: bool,
    /// The body is a JSON object that was read.
    is_object: bool,
    /// The body has fields that must not reach an endpoint.
    pub(crate) has_control_fields: bool,
    /// The engine will compute the whole prompt.
    recomputes_prompt: bool,
    /// It asks for one answer to one prompt.
    has_one_answer: bool,
    /// Some of them are in its [`EXTRA_ARGUMENTS`].
    hides_control_fields: bool,
    client: ClientIdentity,
}

/// What a client named, if anything, whose request is for another model.
#[derive(Clone)]
struct RewrittenModel {
    asked: Option<String>,
}

impl InferenceRequest {
    /// Asks the endpoints for `target` in place of what the client names. Nothing changes if the
    /// body names no model and cannot.
    pub(crate) fn rewrite(&mut self, target: &str) {
        let can_name = self.is_object || self.form_model.is_some();
        if can_name && self.model.as_deref() != Some(target) {
            let asked = self.model.replace(target.to_owned());
            self.rewritten = Some(Box::new(RewrittenModel { asked }));
        }
    }

    /// A copy for another pool: as the client sent it, and without a reference to what is stored in
    /// this one.
    pub(crate) fn copy(&self) -> Self {
        Self {
            model: self.asked_model().map(str::to_owned),
            rewritten: None,
            edited: None,
            response: None,
            ..self.clone()
        }
    }

    /// Bytes of its body.
    pub(crate) const fn body_bytes(&self) -> u64 {
        self.body.len() as u64
    }

    /// The model that the client named.
    pub(crate) fn asked_model(&self) -> Option<&str> {
        match &self.rewritten {
            Some(rewritten) => rewritten.asked.as_deref(),
            None => self.model.as_deref(),
        }
    }

    /// The name that is put back into the answer: the client's, if it is another.
    pub(crate) fn restored_model(&self) -> Option<&str> {
        self.rewritten.as_ref()?.asked.as_deref()
    }

    /// Whether endpoints are asked for another model than the client named.
    pub(crate) const fn is_rewritten(&self) -> bool {
        self.rewritten.is_some()
    }

    /// Whether the first byte of the answer comes only after its last token was generated.
    pub(crate) const fn is_non_streaming(&self) -> bool {
        !self.stream
            && matches!(
                self.api,
                Api::Chat | Api::Completions | Api::Responses | Api::Messages
            )
    }

    /// Whether it may be sent again after an endpoint may have seen it. What an added path does is
    /// not known, and a response that is stored or made in the background would be made twice.
    pub(crate) fn is_repeatable(&self) -> bool {
        match self.api {
            Api::Extra => self.method.is_idempotent(),
            Api::Responses => !self.has_side_effects,
            _ => true,
        }
    }

    /// Whether a prefill endpoint can compute its prompt for another endpoint: it generates one
    /// answer to one prompt, which nothing but that prompt determines, and may be sent again.
    pub(crate) fn may_be_split(&self) -> bool {
        let generates = match self.api {
            Api::Chat | Api::Completions | Api::Responses => true,
            Api::Messages => !self.target.path().ends_with("/count_tokens"),
            _ => false,
        };
        generates
            && self.has_one_answer
            && !self.recomputes_prompt
            && self.response.is_none()
            && self.is_repeatable()
    }

    /// Whether a client that asked for a stream asked for its usage, too.
    pub(crate) fn includes_usage(&self) -> bool {
        stream_options::include_usage(&self.body)
    }

    /// What a selection in a pool reads. `hashed` forces the prompt's hashes.
    pub(crate) fn query(&self, pool: &PoolSpec, hashed: bool) -> Query {
        let (policy, model) = (&pool.policy, self.model.as_deref());
        let session = match &policy.strategy {
            Strategy::SessionAffinity(affinity) => self.client.session(affinity, &self.headers),
            _ => None,
        };
        let blocks = if hashed || policy.strategy.needs_prefix() {
            let model = model.unwrap_or_default();
            self.prompt.blocks(&self.body, model, policy.block_bytes)
        } else {
            Arc::default()
        };
        Query {
            prompt_bytes: self.prompt.bytes(),
            prompt_tokens: self.prompt.estimated_tokens(),
            blocks,
            block_bytes: policy.block_bytes,
            session,
            priority: self
                .client
                .priority(pool, self.asked_model(), &self.headers),
            tenant: identity::tenant(&policy.tenant, model, &self.headers),
            recomputes_prompt: self.recomputes_prompt,
            only_cached: headers::prefers_cached(&self.headers),
            ..Query::default()
        }
    }

    /// The text of the prompt for exact cache sources, if there is one within the limit.
    pub(crate) fn lookup_text(&self) -> Option<PromptText> {
        lookup::lookup_text(&self.prompt, &self.body, self.api)
    }

    /// The body of a leg: the client's bytes without control fields, and with the leg's own edits,
    /// which may set a control field.
    ///
    /// # Errors
    ///
    /// When there is something to edit and the body is no JSON object.
    pub(crate) fn leg_body(&self, edits: &[BodyEdit]) -> Result<LegBody, LocalReply> {
        if let Some(body) = self.edited_body() {
            return Ok(body);
        }
        let rewritten = self.model.as_deref().filter(|_| self.is_rewritten());
        if let (Some(span), Some(model)) = (&self.form_model, rewritten) {
            return Ok(self.form_with(**span, model));
        }
        let own = (&self.body, &self.positions);
        let body = if self.has_control_fields || rewritten.is_some() {
            let removed = CONTROL_FIELDS
                .iter()
                .copied()
                .filter(|_| self.has_control_fields);
            let hiding = self.hides_control_fields.then_some(EXTRA_ARGUMENTS);
            let removals = removed.chain(hiding).map(BodyEdit::Remove);
            let renamed = rewritten
                .map(|model| BodyEdit::set("model", serde_json::Value::from(model).to_string()));
            let ours = removals.chain(renamed);
            let edits: Vec<BodyEdit> = ours.chain(edits.iter().cloned()).collect();
            body_edit::edited(own, &edits)
        } else {
            body_edit::edited(own, edits)
        };
        body.map_err(|error| LocalReply::BadBody(error.to_string()))
    }

    /// The form with `model` in place of what it has there.
    fn form_with(&self, span: BodySpan, model: &str) -> LegBody {
        let (start, end) = (0, self.body.len());
        let before = BodySpan {
            start,
            end: span.start,
        };
        let after = BodySpan {
            start: span.end,
            end,
        };
        let model = Bytes::copy_from_slice(model.as_bytes());
        let pieces = self.body.shared(before).chain([model]);
        LegBody::from(pieces.chain(self.body.shared(after)).collect::<Vec<_>>())
    }
}

/// A reference to a stored response.
#[derive(Clone)]
pub(crate) struct ResponseReference {
    pub(crate) id: String,
    pub(crate) key: ResponseKey,
}

impl From<&str> for ResponseReference {
    fn from(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            key: ResponseKey::of(id),
        }
    }
}

// === InferenceRequest ===

impl InferenceRequest {
    /// Parses a request whose body is complete. `scanner` has seen all of it, if the API reads
    /// JSON.
    pub(crate) fn parse(
        route: ApiRoute<'_>,
        head: http::request::Parts,
        body: RequestBody,
        scanner: Option<FieldScanner>,
    ) -> Result<Self, LocalReply> {
        let http::request::Parts {
            method,
            uri,
            headers: mut head_headers,
            ..
        } = head;
        let target = target(route.path, uri.query())?;
        let priority = headers::priority(&head_headers);
        headers::clean_request(&mut head_headers);
        let mut request = Self {
            api: route.api,
            method,
            target,
            headers: head_headers,
            terms: None,
            model: None,
            form_model: None,
            rewritten: None,
            edited: None,
            stream: false,
            prompt: RequestPrompt::unparsed(body.len()),
            body,
            positions: FieldPositions::default(),
            response: None,
            has_side_effects: false,
            is_object: false,
            has_control_fields: false,
            recomputes_prompt: false,
            has_one_answer: false,
            hides_control_fields: false,
            client: ClientIdentity::of(&BodyFields::default(), priority),
        };
        if route.api == Api::StoredResponse {
            let below = route.path.strip_prefix("/v1/responses/");
            let id = below.and_then(|below| below.split('/').next());
            request.response = id.map(ResponseReference::from).map(Box::new);
        }
        if let Some(scanner) = scanner {
            let fields = scanner.finish(&request.body)?;
            request.prompt = RequestPrompt::of(&fields.prompt, &request.body);
            let response = fields.previous_response_id.as_deref();
            request.response = response.map(ResponseReference::from).map(Box::new);
            request.has_side_effects = fields.has_side_effects;
            request.recomputes_prompt = fields.recomputes_prompt;
            request.has_one_answer = fields.has_one_answer;
            request.read(fields, priority);
        }
        if route.api == Api::Extra {
            request.read_extra(priority)?;
        }
        Ok(request)
    }

    /// Reads what the body of an added path has for the choice of a pool.
    fn read_extra(&mut self, priority: Option<i32>) -> Result<(), LocalReply> {
        let whole = BodySpan {
            start: 0,
            end: self.body.len(),
        };
        let beginning = self.body.pieces().iter().flatten();
        match ExtraBody::of(&self.headers, beginning) {
            ExtraBody::Object { is_strict } => match BodyFields::parse(&self.body) {
                Ok(fields) => self.read(fields, priority),
                Err(error) if is_strict => return Err(error.into()),
                Err(_) => {}
            },
            ExtraBody::Form { boundary } => {
                let form = self.body.contiguous(whole);
                if let Some(Range { start, end }) = extra_body::model_of_form(&boundary, &form) {
                    let model = String::from_utf8_lossy(&form[start..end]);
                    self.model = Some(model.into_owned());
                    self.form_model = Some(Box::new(BodySpan { start, end }));
                }
            }
            ExtraBody::Opaque => {}
        }
        Ok(())
    }

    fn read(&mut self, fields: BodyFields, priority: Option<i32>) {
        self.client = ClientIdentity::of(&fields, priority);
        self.model = fields.model;
        self.is_object = true;
        self.stream = fields.stream;
        self.has_control_fields = fields.has_control_fields || fields.hides_control_fields;
        self.hides_control_fields = fields.hides_control_fields;
    }
}

impl From<UnreadableBody> for LocalReply {
    fn from(error: UnreadableBody) -> Self {
        Self::BadBody(error.to_string())
    }
}

/// The target of the request, which leaves room for an endpoint's base path before it.
fn target(path: &str, query: Option<&str>) -> Result<PathAndQuery, LocalReply> {
    if path.len() + query.map_or(0, str::len) > MAX_TARGET {
        return Err(LocalReply::UnknownPath);
    }
    let target = match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    target.map_err(|_| LocalReply::UnknownPath)
}

#[cfg(test)]
mod tests {
    use hermes_core::policy::{KvAware, PoolPolicy};

    use super::*;

    fn call(body: &str) -> InferenceRequest {
        parsed(http::Request::post("/v1/chat/completions"), body)
    }

    fn parsed(request: http::request::Builder, body: &str) -> InferenceRequest {
        let (head, ()) = request.body(()).expect("valid").into_parts();
        let route = crate::request::api::route(&Method::POST, "/v1/chat/completions", &["/x"])
            .expect("served");
        let mut scanner = FieldScanner::default();
        scanner.scan(body.as_bytes());
        let body = RequestBody::from(Bytes::copy_from_slice(body.as_bytes()));
        InferenceRequest::parse(route, head, body, Some(scanner)).expect("readable")
    }

    #[test]
    fn the_bodys_priority_is_lower_first_and_the_headers_is_higher_first_and_takes_precedence() {
        let priority = |header: Option<&str>| {
            let request = http::Request::post("/v1/chat/completions");
            let request = header.into_iter().fold(request, |request, value| {
                request.header("x-hermes-priority", value)
            });
            let call = parsed(request, r#"{"priority":3}"#);
            assert!(
                call.headers.is_empty(),
                "the header is for the router alone"
            );
            let mut rules = KvAware::default();
            rules.queue.max_priority = 8;
            let policy = PoolPolicy {
                strategy: Strategy::KvAware(rules),
                ..PoolPolicy::default()
            };
            call.query(&PoolSpec::new("chat", policy), false).priority
        };
        assert_eq!(
            (priority(None), priority(Some("5")), priority(Some("soon"))),
            (-3, 5, -3)
        );
    }

    #[test]
    fn control_fields_are_cut_from_what_is_sent() {
        let call =
            call(r#"{"model":"m","kv_transfer_params":{"remote_host":"evil"},"messages":[]}"#);
        assert!(call.has_control_fields);
        assert_eq!(
            call.leg_body(&[]).expect("an object").len(),
            r#"{"model":"m","messages":[]}"#.len() as u64
        );
    }

    #[test]
    fn arguments_that_hide_control_fields_are_cut_from_what_is_sent() {
        let call =
            call(r#"{"vllm_xargs":{"kv_transfer_params":"x"},"messages":[],"vllm_xargs":{"a":1}}"#);
        assert!(call.has_control_fields);
        let sent = call.leg_body(&[]).expect("an object").len();
        assert_eq!(sent, r#"{"messages":[]}"#.len() as u64);
        let plain = r#"{"vllm_xargs":{"a":1}}"#;
        let plain_call = super::tests::call(plain);
        assert!(!plain_call.has_control_fields);
        let sent = plain_call.leg_body(&[]).expect("unedited").len();
        assert_eq!(sent, plain.len() as u64);
    }

    #[test]
    fn a_leg_may_set_a_field_that_its_client_must_not() {
        let call = call(r#"{"kv_transfer_params":{"remote_host":"evil"},"n":1}"#);
        let body = call.leg_body(&[BodyEdit::set("kv_transfer_params", "{}")]);
        assert_eq!(
            body.expect("an object").len(),
            r#"{"kv_transfer_params":{},"n":1}"#.len() as u64
        );
    }

    #[test]
    fn a_strategy_without_prefix_hashes_gets_them_only_on_demand() {
        let request = call(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(600)));
        let policy = PoolPolicy {
            strategy: Strategy::Random,
            ..PoolPolicy::default()
        };
        let pool = PoolSpec::new("chat", policy);
        let blocks = |hashed| request.query(&pool, hashed).blocks.len();
        assert_eq!((blocks(false), blocks(true)), (0, 2));
    }
}
