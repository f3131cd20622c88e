//! A streamed chat completion as the events of a message.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    answer::{MessageBody, MessagesAnswerTerms},
    block_writer::BlockWriter,
    call_fragments::CallFragments,
    chat_answer::{ChatAnswer, ChatChoice, SaidText},
    held_texts::HeldTexts,
    stop_reason::{AnswerParts, is_whole, stop_reason},
};
use crate::{
    answer_names::{id_of, model_of},
    api_error::{ApiError, status_of_details},
    event_reader::{EventReader, StreamItem},
    json_string::{JsonString, encoded},
    stream_writer::{COMMENT, write_event, write_json},
    untranslatable_answer::UntranslatableAnswer,
    usage::{AnswerUsage, MessagesUsage},
};

/// Translates the pieces of a stream as they arrive. The events do not depend on where it is cut.
///
/// ```text
///   piece ─▶ EventReader: chunks ─▶ MessageEvents: blocks, usage, end ─▶ events
/// ```
#[derive(Debug)]
pub struct EventStream {
    reader: EventReader,
    events: MessageEvents,
}

#[derive(Debug)]
struct MessageEvents {
    id: Box<str>,
    model: Option<Box<str>>,
    omit_thinking: bool,
    phase: StreamPhase,
    /// The answer's id, as JSON.
    answer_id: Box<RawValue>,
    blocks: BlockWriter,
    calls: CallFragments,
    held: HeldTexts,
    usage: AnswerUsage,
    finish_reason: Option<Box<RawValue>>,
    stop_sequence: Option<Box<RawValue>>,
    is_refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamPhase {
    /// Nothing of the answer has arrived.
    Waiting,
    Begun,
    /// What arrives is skipped.
    Ended,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "message_start")]
struct MessageStart<'a> {
    message: MessageBody<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "message_delta")]
struct MessageChange<'a> {
    delta: MessageEnd<'a>,
    usage: MessagesUsage,
}

#[derive(Serialize)]
struct MessageEnd<'a> {
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a RawValue>,
}

// === EventStream ===

impl EventStream {
    /// For one answer.
    #[must_use]
    pub fn new(terms: &MessagesAnswerTerms<'_>) -> Self {
        let events = MessageEvents {
            id: terms.id.into(),
            model: terms.model.map(Into::into),
            omit_thinking: terms.omit_thinking,
            phase: StreamPhase::Waiting,
            answer_id: encoded(terms.id),
            blocks: BlockWriter::default(),
            calls: CallFragments::default(),
            held: HeldTexts::default(),
            usage: AnswerUsage::default(),
            finish_reason: None,
            stop_sequence: None,
            is_refused: false,
        };
        Self {
            reader: EventReader::default(),
            events,
        }
    }

    /// Writes the events that the next piece makes. They may be none.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        while self.events.phase != StreamPhase::Ended {
            match self.reader.next(&mut piece) {
                Ok(None) => return,
                Ok(Some(StreamItem::Comment)) => self.events.comment(out),
                Ok(Some(StreamItem::Data(data))) => self.events.read(data, out),
                Err(_) => self.events.fail(UntranslatableAnswer::OverlongEvent, out),
            }
        }
    }

    /// Writes the events at the end of the stream. One that ended early ends with an error.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.events.phase == StreamPhase::Ended {
            return;
        }
        if let Some(data) = self.reader.rest()
            && self.events.add_data(data, out).is_err()
        {
            self.events.fail(UntranslatableAnswer::EndedEarly, out);
        }
        match self.events.phase {
            StreamPhase::Ended => {}
            StreamPhase::Begun if self.events.finish_reason.is_some() => {
                if let Err(fault) = self.events.end(out) {
                    self.events.fail(fault, out);
                }
            }
            _ => self.events.fail(UntranslatableAnswer::EndedEarly, out),
        }
    }

    /// What the answer cost, as far as it was reported.
    #[must_use]
    pub const fn usage(&self) -> AnswerUsage {
        self.events.usage
    }

    /// The last event was written, or an error.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.events.phase == StreamPhase::Ended
    }
}

// === MessageEvents ===

impl MessageEvents {
    fn comment(&self, out: &mut Vec<u8>) {
        match self.phase {
            StreamPhase::Begun => write_json(Some("ping"), br#"{"type":"ping"}"#, out),
            StreamPhase::Waiting | StreamPhase::Ended => out.extend_from_slice(COMMENT),
        }
    }

    fn fail(&mut self, fault: UntranslatableAnswer, out: &mut Vec<u8>) {
        self.phase = StreamPhase::Ended;
        write_json(Some("error"), &fault.for_messages(), out);
    }

    fn read(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if let Err(fault) = self.add_data(data, out) {
            self.fail(fault, out);
        }
    }

    fn add_data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), UntranslatableAnswer> {
        if data == b"[DONE]" {
            return self.end(out);
        }
        let malformed = |_| UntranslatableAnswer::Malformed;
        let chunk: ChatAnswer<'_> = serde_json::from_slice(data).map_err(malformed)?;
        if let Some(details) = chunk.error {
            self.phase = StreamPhase::Ended;
            let error = ApiError::of_details(status_of_details(details), details);
            write_json(Some("error"), &error.for_messages(), out);
            return Ok(());
        }
        // Later counts of a stream replace the ones before.
        if let Some(usage) = chunk.usage {
            self.usage = usage.into();
        }
        let mut choices = chunk.choices.unwrap_or_default().into_iter();
        let Some(choice) = choices.find(|choice| choice.index.unwrap_or_default() == 0) else {
            return Ok(());
        };
        if self.phase == StreamPhase::Waiting {
            self.begin(chunk.id, chunk.model, out);
        }
        self.add(&choice, out)
    }

    fn begin(
        &mut self,
        id: Option<JsonString<'_>>,
        model: Option<JsonString<'_>>,
        out: &mut Vec<u8>,
    ) {
        self.phase = StreamPhase::Begun;
        self.answer_id = id_of(id, &self.id).into_owned();
        let message = MessageBody {
            id: std::borrow::Cow::Borrowed(&*self.answer_id),
            role: "assistant",
            model: model_of(model, self.model.as_deref()),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: self.usage.into(),
        };
        write_event("message_start", &MessageStart { message }, out);
    }

    fn add(
        &mut self,
        choice: &ChatChoice<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), UntranslatableAnswer> {
        if let Some(reason) = choice.finish_reason() {
            self.finish_reason = Some(reason.raw().to_owned());
            let sequence = choice.stop_sequence();
            self.stop_sequence = sequence.map(|sequence| sequence.raw().to_owned());
        }
        let Some(said) = &choice.message else {
            return Ok(());
        };
        self.is_refused |= said.is_refusal();
        for said in said.texts() {
            self.say(said, out)?;
        }
        for fragment in said.tool_calls.iter().flatten() {
            let (answer, blocks) = (&*self.answer_id, &mut self.blocks);
            self.calls.add(fragment, answer, blocks, out)?;
        }
        if !self.calls.are_unfinished() {
            self.say_held(out);
        }
        Ok(())
    }

    fn say(&mut self, said: SaidText<'_>, out: &mut Vec<u8>) -> Result<(), UntranslatableAnswer> {
        if self.calls.are_unfinished() {
            return self.held.hold(said);
        }
        self.write_text(said.text.raw(), said.is_thinking, out);
        Ok(())
    }

    fn say_held(&mut self, out: &mut Vec<u8>) {
        for text in self.held.take() {
            self.write_text(&text.json(), text.is_thinking, out);
        }
    }

    fn write_text(&mut self, text: &RawValue, is_thinking: bool, out: &mut Vec<u8>) {
        self.calls.leave();
        if is_thinking {
            let shown = (!self.omit_thinking).then_some(text);
            self.blocks.thinking(shown, out);
        } else {
            self.blocks.text(text, out);
        }
    }

    /// Ends the message.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), UntranslatableAnswer> {
        if self.phase == StreamPhase::Waiting {
            return Err(UntranslatableAnswer::NoChoice);
        }
        self.calls.flush(&self.answer_id, &mut self.blocks, out)?;
        self.say_held(out);
        self.blocks.close(out);
        let stop = encoded("stop");
        let reason = JsonString::of(self.finish_reason.as_deref().unwrap_or(&stop));
        let has_sequence = self.stop_sequence.is_some();
        let is_whole = !has_sequence && reason.is_some_and(is_whole);
        let are_complete = self.calls.are_complete();
        if is_whole && !are_complete {
            return Err(UntranslatableAnswer::BrokenArguments);
        }
        let parts = AnswerParts {
            has_calls: !self.calls.is_empty() && are_complete,
            is_refused: self.is_refused,
        };
        let reason = reason.and_then(|reason| stop_reason(reason, has_sequence, parts));
        let is_sequence = reason == Some("stop_sequence");
        let delta = MessageEnd {
            stop_reason: reason,
            stop_sequence: self.stop_sequence.as_deref().filter(|_| is_sequence),
        };
        let usage = self.usage.into();
        write_event("message_delta", &MessageChange { delta, usage }, out);
        write_json(Some("message_stop"), br#"{"type":"message_stop"}"#, out);
        self.phase = StreamPhase::Ended;
        Ok(())
    }
}
