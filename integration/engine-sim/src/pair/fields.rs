//! The fields of a request that make it a leg of a pair.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::LegFailure;
use super::violation::PairViolation;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LegFields<'a> {
    pub(super) stream: Option<bool>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    max_output_tokens: Option<u32>,
    #[serde(borrow)]
    kv_transfer_params: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) bootstrap_host: Option<Cow<'a, str>>,
    pub(super) bootstrap_port: Option<u16>,
    pub(super) bootstrap_room: Option<u64>,
    #[serde(borrow)]
    disaggregated_params: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt_token_ids: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
}

impl<'a> LegFields<'a> {
    /// Those of a body. One that is no request has none: what is wrong with it is found later.
    pub(super) fn of(body: &'a [u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    /// Whether the prompt is there as tokens: as that of a completion, or beside messages.
    pub(super) fn has_prompt_tokens(&self) -> bool {
        let tokens = self.prompt_token_ids.or(self.prompt);
        tokens.is_some_and(|tokens| serde_json::from_str::<Vec<u32>>(tokens.get()).is_ok())
    }

    /// What vLLM's connectors read, if it is there.
    ///
    /// # Errors
    /// When it has not the form of `T`.
    pub(super) fn transfer_params<T: DeserializeOwned>(&self) -> Result<Option<T>, LegFailure> {
        params(self.kv_transfer_params)
    }

    /// What TensorRT-LLM reads, if it is there.
    ///
    /// # Errors
    /// When it has not the form of `T`.
    pub(super) fn disaggregated_params<T: DeserializeOwned>(
        &self,
    ) -> Result<Option<T>, LegFailure> {
        params(self.disaggregated_params)
    }

    /// Whether the answer is a whole one of one token, as that of vLLM's prefill legs.
    pub(super) fn is_for_one_token(&self) -> bool {
        let limits = [
            self.max_completion_tokens,
            self.max_tokens,
            self.max_output_tokens,
        ];
        let mut limits = limits.into_iter().flatten().peekable();
        let is_one = limits.peek().is_some() && limits.all(|limit| limit == 1);
        is_one && self.stream != Some(true)
    }
}

fn params<T: DeserializeOwned>(raw: Option<&RawValue>) -> Result<Option<T>, LegFailure> {
    let params = raw.map(|raw| serde_json::from_str(raw.get()));
    let params = params.transpose();
    params.map_err(|_| PairViolation::IncompleteParameters.into())
}
