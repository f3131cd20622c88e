//! The events of a message as the chunks of a streamed chat completion.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    answer::{ChatAnswerTerms, SignedThinking},
    chunk_writer::ChunkWriter,
    messages_answer::{ReadBlock, ReadDelta, ReadEvent, ReadMessage, finish_reason},
};
use crate::{
    answer_names::{id_of, model_of},
    api_error::{ApiError, status_of_kind},
    event_reader::{EventReader, LONGEST_EVENT, StreamItem},
    json_string::{JsonString, encoded, joined},
    stream_writer::{COMMENT, DONE, write_json},
    untranslatable_answer::UntranslatableAnswer,
    usage::AnswerUsage,
};

/// Translates the pieces of a stream as they arrive. The chunks do not depend on where it is cut.
///
/// ```text
///   piece ─▶ EventReader: events ─▶ CompletionChunks: blocks, usage, end ─▶ chunks
/// ```
#[derive(Debug)]
pub struct ChunkStream {
    reader: EventReader,
    chunks: CompletionChunks,
}

#[derive(Debug)]
struct CompletionChunks {
    own_id: Box<str>,
    own_model: Option<Box<str>>,
    include_usage: bool,
    phase: ChunkPhase,
    writer: ChunkWriter,
    /// Calls that began.
    calls: u64,
    /// The calls whose blocks are open.
    open_calls: Vec<OpenCall>,
    /// What was thought in the block that is open, escaped. Its server needs it back as a whole.
    thought: String,
    /// Blocks of thinking that the client was given.
    signed: u64,
    usage: AnswerUsage,
    finish_reason: Option<&'static str>,
    stop_sequence: Option<Box<RawValue>>,
}

/// The most blocks that are open at once. Servers have one.
const MOST_OPEN: usize = 64;

#[derive(Clone, Copy, Debug)]
struct OpenCall {
    /// The index of its block.
    block: u64,
    /// Its number among the calls.
    call: u64,
    has_arguments: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkPhase {
    Waiting,
    Begun,
    /// What arrives is skipped.
    Ended,
}

// === ChunkStream ===

impl ChunkStream {
    /// For one answer.
    #[must_use]
    pub fn new(terms: &ChatAnswerTerms<'_>) -> Self {
        let chunks = CompletionChunks {
            own_id: terms.id.into(),
            own_model: terms.model.map(Into::into),
            include_usage: terms.include_usage,
            phase: ChunkPhase::Waiting,
            writer: ChunkWriter {
                id: encoded(terms.id),
                model: encoded(terms.model.unwrap_or_default()),
                created: terms.created,
            },
            calls: 0,
            open_calls: Vec::new(),
            thought: String::new(),
            signed: 0,
            usage: AnswerUsage::default(),
            finish_reason: None,
            stop_sequence: None,
        };
        Self {
            reader: EventReader::default(),
            chunks,
        }
    }

    /// Writes the chunks that the next piece makes. They may be none.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        while self.chunks.phase != ChunkPhase::Ended {
            match self.reader.next(&mut piece) {
                Ok(None) => return,
                Ok(Some(StreamItem::Comment)) => out.extend_from_slice(COMMENT),
                Ok(Some(StreamItem::Data(data))) => self.chunks.read(data, out),
                Err(_) => self.chunks.fail(UntranslatableAnswer::OverlongEvent, out),
            }
        }
    }

    /// Writes the chunks at the end of the stream. One that ended early ends with an error.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.chunks.phase == ChunkPhase::Ended {
            return;
        }
        if let Some(data) = self.reader.rest()
            && self.chunks.add_data(data, out).is_err()
        {
            self.chunks.fail(UntranslatableAnswer::EndedEarly, out);
        }
        match self.chunks.phase {
            ChunkPhase::Ended => {}
            ChunkPhase::Begun if self.chunks.finish_reason.is_some() => self.chunks.end(out),
            _ => self.chunks.fail(UntranslatableAnswer::EndedEarly, out),
        }
    }

    /// What the answer cost, as far as it was reported.
    #[must_use]
    pub const fn usage(&self) -> AnswerUsage {
        self.chunks.usage
    }

    /// The last chunk was written, or an error.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.chunks.phase == ChunkPhase::Ended
    }
}

// === CompletionChunks ===

impl CompletionChunks {
    fn fail(&mut self, fault: UntranslatableAnswer, out: &mut Vec<u8>) {
        self.phase = ChunkPhase::Ended;
        write_json(None, &fault.for_chat(), out);
    }

    fn read(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if let Err(fault) = self.add_data(data, out) {
            self.fail(fault, out);
        }
    }

    fn add_data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), UntranslatableAnswer> {
        let malformed = |_| UntranslatableAnswer::Malformed;
        let event = serde_json::from_slice(data).map_err(malformed)?;
        self.add(event, out)
    }

    fn add(&mut self, event: ReadEvent<'_>, out: &mut Vec<u8>) -> Result<(), UntranslatableAnswer> {
        let malformed = UntranslatableAnswer::Malformed;
        let index = event.index.unwrap_or_default();
        match event.kind.text().as_deref() {
            Some("message_start") => self.begin(&event.message.ok_or(malformed)?, out),
            Some("ping") => out.extend_from_slice(COMMENT),
            Some("error") => self.error(event.error, out),
            _ if self.phase == ChunkPhase::Waiting => return Err(malformed),
            Some("content_block_start") => {
                self.start_block(index, &event.content_block.ok_or(malformed)?, out)?;
            }
            Some("content_block_delta") => {
                self.add_to_block(index, &event.delta.ok_or(malformed)?, out)?;
            }
            Some("content_block_stop") => self.close_block(index, out),
            Some("message_delta") => {
                let usage = event.usage.map(AnswerUsage::from);
                self.usage.merge(usage.unwrap_or_default());
                if let Some(delta) = event.delta {
                    self.change_message(&delta, out);
                }
            }
            Some("message_stop") => self.end(out),
            // The API asks its clients to expect events of other types.
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, message: &ReadMessage<'_>, out: &mut Vec<u8>) {
        self.phase = ChunkPhase::Begun;
        self.writer.id = id_of(message.id, &self.own_id).into_owned();
        self.writer.model = model_of(message.model, self.own_model.as_deref()).into_owned();
        let usage = message.usage.map(AnswerUsage::from);
        self.usage.merge(usage.unwrap_or_default());
        self.writer.role(out);
    }

    fn start_block(
        &mut self,
        index: u64,
        block: &ReadBlock<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), UntranslatableAnswer> {
        let malformed = UntranslatableAnswer::Malformed;
        match block.kind.text().as_deref() {
            Some("text") => self.say(block.text, out),
            Some("thinking") => {
                self.thought.clear();
                self.think(block.thinking, out)?;
                self.sign(block.signature, out);
            }
            Some("redacted_thinking") => {
                let data = block.data.ok_or(malformed)?;
                self.write_signed(SignedThinking::RedactedThinking { data }, out);
            }
            Some("tool_use") => self.start_call(index, block, out)?,
            _ => return Err(UntranslatableAnswer::UnknownContent),
        }
        Ok(())
    }

    fn start_call(
        &mut self,
        index: u64,
        block: &ReadBlock<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), UntranslatableAnswer> {
        if self.open_calls.len() == MOST_OPEN {
            return Err(UntranslatableAnswer::TooMuchHeld);
        }
        let (Some(id), Some(name)) = (block.id, block.name) else {
            return Err(UntranslatableAnswer::Malformed);
        };
        // The input is empty here, unless a server sends all of it at once.
        let input = block.input.map_or("{}", RawValue::get);
        let input = if input == "{}" { "" } else { input };
        self.open_calls.push(OpenCall {
            block: index,
            call: self.calls,
            has_arguments: !input.is_empty(),
        });
        self.writer.start_call(self.calls, (id, name), input, out);
        self.calls += 1;
        Ok(())
    }

    fn add_to_block(
        &mut self,
        index: u64,
        delta: &ReadDelta<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), UntranslatableAnswer> {
        match delta.kind.and_then(JsonString::text).as_deref() {
            Some("text_delta") => self.say(delta.text, out),
            Some("thinking_delta") => self.think(delta.thinking, out)?,
            Some("signature_delta") => self.sign(delta.signature, out),
            Some("input_json_delta") => {
                let fragment = delta.partial_json.ok_or(UntranslatableAnswer::Malformed)?;
                self.add_arguments(index, fragment, out)?;
            }
            // What a text cites: the text itself is whole without it.
            Some("citations_delta") => {}
            _ => return Err(UntranslatableAnswer::UnknownContent),
        }
        Ok(())
    }

    fn add_arguments(
        &mut self,
        index: u64,
        fragment: JsonString<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), UntranslatableAnswer> {
        if fragment.is_empty() {
            return Ok(());
        }
        let mut open = self.open_calls.iter_mut();
        let Some(open) = open.find(|open| open.block == index) else {
            return Err(UntranslatableAnswer::Malformed);
        };
        open.has_arguments = true;
        self.writer.arguments(open.call, fragment.raw(), out);
        Ok(())
    }

    /// A call without arguments gets the text of an empty object: clients parse what they got.
    fn close_block(&mut self, index: u64, out: &mut Vec<u8>) {
        let Some(at) = self.open_calls.iter().position(|open| open.block == index) else {
            return;
        };
        let open = self.open_calls.swap_remove(at);
        if !open.has_arguments {
            self.writer.arguments(open.call, &encoded("{}"), out);
        }
    }

    fn change_message(&mut self, delta: &ReadDelta<'_>, out: &mut Vec<u8>) {
        if delta.stop_reason.is_none() {
            return;
        }
        let reason = finish_reason(delta.stop_reason);
        self.finish_reason = Some(reason);
        self.stop_sequence = delta.stop_sequence.map(|text| text.raw().to_owned());
        let explanation = delta.stop_details.and_then(|details| details.explanation);
        if let Some(explanation) = explanation.filter(|_| reason == "content_filter") {
            self.writer.refusal(explanation, out);
        }
    }

    fn error(&mut self, details: Option<&RawValue>, out: &mut Vec<u8>) {
        #[derive(Default, Deserialize)]
        struct Kind<'a> {
            #[serde(borrow, default, rename = "type")]
            kind: Option<JsonString<'a>>,
        }
        self.phase = ChunkPhase::Ended;
        let details = details.unwrap_or(RawValue::NULL);
        let kind: Kind<'_> = serde_json::from_str(details.get()).unwrap_or_default();
        let kind = kind.kind.and_then(JsonString::text).unwrap_or_default();
        let error = ApiError::of_details(status_of_kind(&kind), details);
        write_json(None, &error.for_chat(), out);
    }

    /// Ends the completion.
    fn end(&mut self, out: &mut Vec<u8>) {
        self.phase = ChunkPhase::Ended;
        let reason = self.finish_reason.unwrap_or("stop");
        self.writer.end(reason, self.stop_sequence.as_deref(), out);
        if self.include_usage {
            self.writer.usage(self.usage, out);
        }
        out.extend_from_slice(DONE);
    }

    fn say(&self, text: Option<JsonString<'_>>, out: &mut Vec<u8>) {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            self.writer.text(text, out);
        }
    }

    fn think(
        &mut self,
        thinking: Option<JsonString<'_>>,
        out: &mut Vec<u8>,
    ) -> Result<(), UntranslatableAnswer> {
        let Some(thinking) = thinking.filter(|thinking| !thinking.is_empty()) else {
            return Ok(());
        };
        if self.thought.len() + thinking.escaped().len() > LONGEST_EVENT {
            return Err(UntranslatableAnswer::TooMuchHeld);
        }
        self.thought.push_str(thinking.escaped());
        self.writer.thinking(thinking, out);
        Ok(())
    }

    /// The signature of what was thought.
    fn sign(&mut self, signature: Option<JsonString<'_>>, out: &mut Vec<u8>) {
        let Some(signature) = signature.filter(|signature| !signature.is_empty()) else {
            return;
        };
        let thought = std::mem::take(&mut self.thought);
        let block = SignedThinking::Thinking {
            thinking: Cow::Owned(joined(std::iter::once(&*thought))),
            signature,
        };
        self.write_signed(block, out);
    }

    fn write_signed(&mut self, block: SignedThinking<'_>, out: &mut Vec<u8>) {
        self.writer.signed(self.signed, block, out);
        self.signed += 1;
    }
}
