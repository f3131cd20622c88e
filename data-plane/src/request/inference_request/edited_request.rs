//! A request as another picker edited it, which chooses its endpoints.

use bytes::Bytes;
use http::{HeaderMap, uri::PathAndQuery};

use super::{InferenceRequest, RewrittenModel};
use crate::request::{fields::BodyFields, leg_body::LegBody, request_body::RequestBody};

/// What endpoints get in place of the client's request.
#[derive(Clone)]
pub(crate) struct EditedRequest {
    pub(crate) headers: HeaderMap,
    pub(crate) target: PathAndQuery,
    /// If it is another one, in pieces.
    pub(crate) body: Option<Vec<Bytes>>,
}

impl InferenceRequest {
    /// Endpoints get this. A body may name another model.
    pub(crate) fn edit(&mut self, edited: EditedRequest) {
        if let Some(pieces) = &edited.body
            && self.is_object
        {
            let mut body = RequestBody::default();
            pieces.iter().cloned().for_each(|piece| body.push(piece));
            let model = BodyFields::parse(&body)
                .ok()
                .and_then(|fields| fields.model);
            if model.is_some() && model != self.model {
                let asked = self.asked_model().map(str::to_owned);
                self.rewritten = Some(Box::new(RewrittenModel { asked }));
                self.model = model;
            }
        }
        self.edited = Some(Box::new(edited));
    }

    /// The headers for an endpoint, without those that it gets of its own.
    pub(crate) fn sent_headers(&self) -> &HeaderMap {
        let edited = self.edited.as_ref();
        edited.map_or(&self.headers, |edited| &edited.headers)
    }

    /// The path and the query for an endpoint.
    pub(crate) fn sent_target(&self) -> &PathAndQuery {
        let edited = self.edited.as_ref();
        edited.map_or(&self.target, |edited| &edited.target)
    }

    /// The body for an endpoint, if it is another one than the client's.
    pub(super) fn edited_body(&self) -> Option<LegBody> {
        let pieces = self.edited.as_ref()?.body.as_ref()?;
        Some(LegBody::from(pieces.clone()))
    }
}
