//! The tool calls of a stream, whose fragments may come in any order.
//!
//! A stream of messages has one block after the other, and a closed block stays closed. So a
//! call's fragments pass at once while its block is open; those of another call are held back
//! until the open one is complete, which its braces show. Servers that send one call after the
//! other have nothing held back.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    answer::call_id, block_writer::BlockWriter, chat_answer::MadeCall, json_progress::JsonProgress,
};
use crate::{
    json_string::{JsonString, joined},
    untranslatable_answer::UntranslatableAnswer,
};

/// The most bytes of fragments that are held back.
const MOST_HELD: usize = 16 << 20;

/// The most calls of one answer.
const MOST_CALLS: usize = 1_024;

/// All calls of one answer, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct CallFragments {
    calls: Vec<StreamedCall>,
    /// How many of them have a block. The last of these may be open.
    begun: usize,
    is_last_open: bool,
    /// Bytes of fragments that are held back.
    held: usize,
}

#[derive(Debug)]
struct StreamedCall {
    index: Option<u64>,
    id: Option<Box<RawValue>>,
    name: Option<Box<RawValue>>,
    progress: JsonProgress,
    has_arguments: bool,
    /// Arguments that are held back, escaped.
    held: String,
}

impl CallFragments {
    pub(super) const fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Every call has a whole object, or no arguments at all.
    pub(super) fn are_complete(&self) -> bool {
        let mut calls = self.calls.iter();
        calls.all(|call| call.progress.is_complete() || !call.has_arguments)
    }

    /// A block is open whose arguments are not complete, or calls wait for theirs.
    pub(super) fn are_unfinished(&self) -> bool {
        let waits = self.begun < self.calls.len();
        waits || self.is_last_open && !self.calls[self.begun - 1].progress.is_complete()
    }

    /// Adds a fragment.
    pub(super) fn add(
        &mut self,
        fragment: &MadeCall<'_>,
        answer: &RawValue,
        blocks: &mut BlockWriter,
        out: &mut Vec<u8>,
    ) -> Result<(), UntranslatableAnswer> {
        let at = self.find_or_begin(fragment)?;
        let call = &mut self.calls[at];
        if call.id.is_none() && at >= self.begun {
            call.id = fragment.id.map(|id| id.raw().to_owned());
        }
        if call.name.is_none() {
            call.name = fragment.name().map(|name| name.raw().to_owned());
        }
        if let Some(arguments) = fragment.arguments() {
            self.add_arguments(at, arguments, blocks, out)?;
        }
        self.advance(answer, blocks, out);
        Ok(())
    }

    fn add_arguments(
        &mut self,
        at: usize,
        arguments: JsonString<'_>,
        blocks: &mut BlockWriter,
        out: &mut Vec<u8>,
    ) -> Result<(), UntranslatableAnswer> {
        let call = &mut self.calls[at];
        let json = arguments.inner_json();
        if !call.has_arguments && json.trim().is_empty() {
            return Ok(());
        }
        call.has_arguments = true;
        call.progress.follow(&json);
        if call.progress.is_trailed() {
            return Err(UntranslatableAnswer::LateArguments);
        }
        if self.is_last_open && at + 1 == self.begun {
            blocks.arguments(arguments.raw(), out);
        } else if at + 1 > self.begun {
            call.held.push_str(arguments.escaped());
            self.held += arguments.escaped().len();
            if self.held > MOST_HELD {
                return Err(UntranslatableAnswer::TooMuchHeld);
            }
        }
        Ok(())
    }

    /// The block that was open was closed for another one.
    pub(super) const fn leave(&mut self) {
        self.is_last_open = false;
    }

    /// Writes what is held back, at the end of the answer.
    pub(super) fn flush(
        &mut self,
        answer: &RawValue,
        blocks: &mut BlockWriter,
        out: &mut Vec<u8>,
    ) -> Result<(), UntranslatableAnswer> {
        while self.begun < self.calls.len() {
            if self.calls[self.begun].name.is_none() {
                return Err(UntranslatableAnswer::NamelessCall);
            }
            self.begin_next(answer, blocks, out);
        }
        Ok(())
    }

    /// The call that a fragment is of. Servers number calls, or give each fragment its id; some
    /// give all calls the same number and other ids.
    fn find_or_begin(&mut self, fragment: &MadeCall<'_>) -> Result<usize, UntranslatableAnswer> {
        let id = fragment.id.filter(|id| !id.is_empty());
        let is_of = |call: &StreamedCall| {
            let is_indexed = fragment.index.is_none() || call.index == fragment.index;
            let own = call.id.as_deref().map(RawValue::get);
            let is_same = match (id, own) {
                (Some(id), Some(own)) => id.raw().get() == own,
                _ => true,
            };
            is_indexed && is_same
        };
        if let Some(at) = self.calls.iter().rposition(is_of) {
            return Ok(at);
        }
        if self.calls.len() == MOST_CALLS {
            return Err(UntranslatableAnswer::TooMuchHeld);
        }
        self.calls.push(StreamedCall {
            index: fragment.index,
            id: id.map(|id| id.raw().to_owned()),
            name: None,
            progress: JsonProgress::default(),
            has_arguments: false,
            held: String::new(),
        });
        Ok(self.calls.len() - 1)
    }

    /// Opens blocks as long as the one before is complete.
    fn advance(&mut self, answer: &RawValue, blocks: &mut BlockWriter, out: &mut Vec<u8>) {
        while let Some(next) = self.calls.get(self.begun) {
            let is_busy = self.is_last_open && !self.calls[self.begun - 1].progress.is_complete();
            if is_busy || next.name.is_none() {
                return;
            }
            self.begin_next(answer, blocks, out);
        }
    }

    fn begin_next(&mut self, answer: &RawValue, blocks: &mut BlockWriter, out: &mut Vec<u8>) {
        let call = &mut self.calls[self.begun];
        let id = call.id.as_deref().map(Cow::Borrowed);
        let id = id.unwrap_or_else(|| call_id(None, self.begun, answer));
        blocks.start_tool(&id, call.name.as_deref().unwrap_or(RawValue::NULL), out);
        if !call.held.is_empty() {
            let held = std::mem::take(&mut call.held);
            self.held -= held.len();
            blocks.arguments(&joined(std::iter::once(&*held)), out);
        }
        self.begun += 1;
        self.is_last_open = true;
    }
}
