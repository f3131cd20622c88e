//! A generation as server-sent events: one frame per token, nothing before the first token, faults
//! on the way.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::unfold;
use http_body::Frame;

use super::generation::Generation;
use super::reply::{Broken, Frames};
use super::usage::Usage;
use crate::faults::Fault;
use crate::model::scheduler::Progress;
use crate::transport::socket::Fuse;

/// One token on its way out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) choice: usize,
    pub(crate) word: &'static str,
    pub(crate) id: u32,
    /// Set on the last token of its choice.
    pub(crate) finish: Option<&'static str>,
    /// The usage with this token.
    pub(crate) usage: Usage,
}

/// How one API writes a generation as events. Each call appends whole events.
pub(crate) trait Events: Send + 'static {
    /// Before the first token, when it is ready.
    fn opening(&mut self, out: &mut String, usage: &Usage);
    /// One token.
    fn token(&mut self, out: &mut String, token: &Token);
    /// After the last token.
    fn closing(&mut self, out: &mut String, usage: &Usage);
}

struct Stream<E> {
    generation: Generation,
    events: E,
    /// Tokens sent and last known progress, by choice.
    choices: Vec<(u32, Progress)>,
    usage: Usage,
    stage: Stage,
    fault: Option<Fault>,
    fuse: Arc<Fuse>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Tokens,
    Ended,
}

/// The frames of this generation. A fault strikes once its number of tokens is out; `fuse` resets
/// the connection.
pub(crate) fn frames(
    generation: Generation,
    events: impl Events,
    fault: Option<Fault>,
    fuse: Arc<Fuse>,
) -> Frames {
    let choices = vec![(0, Progress::default()); generation.choices.len()];
    let usage = generation.usage();
    let stream = Stream {
        generation,
        events,
        choices,
        usage,
        stage: Stage::Opening,
        fault,
        fuse,
    };
    Box::pin(unfold(stream, |mut stream| async move {
        let frame = stream.next().await?;
        if frame.is_err() {
            stream.stage = Stage::Ended;
        }
        Some((frame, stream))
    }))
}

impl<E: Events> Stream<E> {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, Broken>> {
        if self.stage == Stage::Ended {
            return None;
        }
        if let Err(broken) = self.strike().await {
            return Some(Err(broken));
        }
        let mut out = String::with_capacity(256);
        if self.stage == Stage::Opening {
            if self.wait().await.is_err() {
                return Some(Err(Broken));
            }
            self.stage = Stage::Tokens;
            self.events.opening(&mut out, &self.usage);
        }
        if out.is_empty() {
            match self.token(&mut out).await {
                Ok(true) => {}
                Ok(false) => {
                    self.events.closing(&mut out, &self.usage);
                    self.stage = Stage::Ended;
                }
                Err(broken) => return Some(Err(broken)),
            }
        }
        Some(Ok(Frame::data(Bytes::from(out))))
    }

    /// Lets a fault strike when enough tokens are out. Pending once before it dies lets what was
    /// sent reach the wire.
    async fn strike(&mut self) -> Result<(), Broken> {
        let sent = self.usage.completion_tokens;
        match self.fault {
            Some(Fault::StallMidStream { after_tokens }) if sent >= after_tokens as usize => {
                std::future::pending().await
            }
            Some(Fault::DieMidStream {
                after_tokens,
                reset,
            }) if sent >= after_tokens as usize => {
                tokio::task::yield_now().await;
                if reset {
                    self.fuse.burn();
                }
                Err(Broken)
            }
            _ => Ok(()),
        }
    }

    /// Writes the next token that is ready, waiting for one. Answers `false` when all are out.
    async fn token(&mut self, out: &mut String) -> Result<bool, Broken> {
        loop {
            if let Some(choice) = self
                .choices
                .iter()
                .position(|(sent, progress)| *sent < progress.generated)
            {
                self.write(choice, out);
                return Ok(true);
            }
            if self.choices.iter().all(|(_, progress)| progress.done) {
                return Ok(false);
            }
            self.wait().await?;
        }
    }

    fn write(&mut self, choice: usize, out: &mut String) {
        let (sent, progress) = &mut self.choices[choice];
        let position = *sent;
        *sent += 1;
        self.usage.completion_tokens += 1;
        let last = progress.done && *sent == progress.generated;
        let answer = self.generation.choices[choice].answer;
        let token = Token {
            choice,
            word: answer.word(position),
            id: answer.token(position),
            finish: last.then_some(self.generation.finish_reason),
            usage: self.usage,
        };
        self.events.token(out, &token);
    }

    /// Waits for a token of any choice.
    async fn wait(&mut self) -> Result<(), Broken> {
        let unfinished = self
            .generation
            .choices
            .iter_mut()
            .zip(&self.choices)
            .enumerate();
        let waits = unfinished
            .filter(|(_, (_, (_, progress)))| !progress.done)
            .map(|(index, (choice, (_, progress)))| {
                let seen = progress.generated;
                Box::pin(async move { (index, choice.ticket.beyond(seen).await) })
            });
        let ((index, progress), ..) = futures::future::select_all(waits).await;
        let progress = progress.map_err(|_| Broken)?;
        let known = &mut self.choices[index].1;
        if known.generated == 0 {
            self.usage.cached_tokens += self.generation.choices[index].cached(progress.cached);
        }
        *known = progress;
        Ok(())
    }
}
