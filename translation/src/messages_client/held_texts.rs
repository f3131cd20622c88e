//! Texts and thinking that arrived between the fragments of a tool call.
//!
//! They become blocks of their own behind the call's, in their order.

use serde_json::value::RawValue;

use super::chat_answer::SaidText;
use crate::{json_string::joined, untranslatable_answer::UntranslatableAnswer};

/// The most bytes that are held back.
const MOST_HELD: usize = 16 << 20;

/// What is held back, escaped.
#[derive(Debug, Default)]
pub(super) struct HeldTexts {
    texts: Vec<HeldText>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct HeldText {
    pub(super) is_thinking: bool,
    escaped: String,
}

impl HeldTexts {
    pub(super) fn hold(&mut self, said: SaidText<'_>) -> Result<(), UntranslatableAnswer> {
        let SaidText { is_thinking, text } = said;
        self.bytes += text.escaped().len();
        if self.bytes > MOST_HELD {
            return Err(UntranslatableAnswer::TooMuchHeld);
        }
        match self.texts.last_mut() {
            Some(last) if last.is_thinking == is_thinking => {
                last.escaped.push_str(text.escaped());
            }
            _ => self.texts.push(HeldText {
                is_thinking,
                escaped: text.escaped().to_owned(),
            }),
        }
        Ok(())
    }

    pub(super) fn take(&mut self) -> Vec<HeldText> {
        self.bytes = 0;
        std::mem::take(&mut self.texts)
    }
}

impl HeldText {
    pub(super) fn json(&self) -> Box<RawValue> {
        joined(std::iter::once(&*self.escaped))
    }
}
