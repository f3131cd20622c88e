//! The blocks of a streamed message: one is open at a time, and each has the next index.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::stream_writer::write_event;

/// Writes events about blocks.
#[derive(Debug, Default)]
pub(super) struct BlockWriter {
    /// The index of the block that is open, or of the next one.
    index: u64,
    open: Option<BlockKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlockKind {
    Thinking,
    Text,
    Tool,
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "content_block_start")]
struct BlockStart<'a> {
    index: u64,
    content_block: StartedBlock<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StartedBlock<'a> {
    Thinking {
        thinking: &'static str,
        signature: &'static str,
    },
    Text {
        text: &'static str,
    },
    ToolUse {
        id: &'a RawValue,
        name: &'a RawValue,
        input: NoInput,
    },
}

/// An object without members: the input follows in fragments.
#[derive(Serialize)]
struct NoInput {}

#[derive(Serialize)]
#[serde(tag = "type", rename = "content_block_delta")]
struct ContentBlockChange<'a> {
    index: u64,
    delta: BlockDelta<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum BlockDelta<'a> {
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a RawValue },
    #[serde(rename = "text_delta")]
    Text { text: &'a RawValue },
    #[serde(rename = "input_json_delta")]
    Input { partial_json: &'a RawValue },
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "content_block_stop")]
struct BlockStop {
    index: u64,
}

impl BlockWriter {
    /// Adds to the block of thinking. `None` only shows that there was thinking.
    pub(super) fn thinking(&mut self, thinking: Option<&RawValue>, out: &mut Vec<u8>) {
        let block = StartedBlock::Thinking {
            thinking: "",
            signature: "",
        };
        self.continue_or_start(BlockKind::Thinking, block, out);
        if let Some(thinking) = thinking {
            self.change(BlockDelta::Thinking { thinking }, out);
        }
    }

    pub(super) fn text(&mut self, text: &RawValue, out: &mut Vec<u8>) {
        let block = StartedBlock::Text { text: "" };
        self.continue_or_start(BlockKind::Text, block, out);
        self.change(BlockDelta::Text { text }, out);
    }

    pub(super) fn start_tool(&mut self, id: &RawValue, name: &RawValue, out: &mut Vec<u8>) {
        self.close(out);
        let block = StartedBlock::ToolUse {
            id,
            name,
            input: NoInput {},
        };
        self.start(BlockKind::Tool, block, out);
    }

    /// Adds to the input of the tool whose block is open.
    pub(super) fn arguments(&mut self, partial_json: &RawValue, out: &mut Vec<u8>) {
        self.change(BlockDelta::Input { partial_json }, out);
    }

    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            let stop = BlockStop { index: self.index };
            write_event("content_block_stop", &stop, out);
            self.index += 1;
        }
    }

    fn continue_or_start(&mut self, kind: BlockKind, block: StartedBlock<'_>, out: &mut Vec<u8>) {
        if self.open != Some(kind) {
            self.close(out);
            self.start(kind, block, out);
        }
    }

    fn start(&mut self, kind: BlockKind, content_block: StartedBlock<'_>, out: &mut Vec<u8>) {
        self.open = Some(kind);
        let start = BlockStart {
            index: self.index,
            content_block,
        };
        write_event("content_block_start", &start, out);
    }

    fn change(&self, delta: BlockDelta<'_>, out: &mut Vec<u8>) {
        let index = self.index;
        write_event(
            "content_block_delta",
            &ContentBlockChange { index, delta },
            out,
        );
    }
}
