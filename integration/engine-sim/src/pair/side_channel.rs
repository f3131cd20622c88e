//! The side channel of a prefill engine: where decode engines ask for what it keeps or computes.
//!
//! It has the place of NIXL's side channel (port 5600) and of SGLang's bootstrap server (8998), not
//! their bytes: a question and an answer of one line of JSON each. The connection stays open while
//! the decode engine reads the KV cache; when it ends, the prefill engine frees the memory. So a
//! decode engine that dies or is left by its client frees it too.
//!
//! ```text
//!   {"take":{"handoff":"cmpl-7-0-00000000","by":{…}}}   ─▶   {"tokens":1007} or {"refused":"used_twice"}
//!   {"enter":{"room":6,"by":{…}}}                       ─▶   the same, when the prompt is computed
//! ```
//!
//! Of engines of vLLM's Mooncake connector it is the bootstrap server as well, whose question comes
//! by HTTP.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::bootstrap_server;
use super::engine::{EngineIdentity, PairEngine};
use super::kept_caches::ComputedPrompt;
use super::rooms::{RoomSeat, RoomStage};
use super::violation::PairViolation;
use super::{LegFailure, PairLeg, PairProtocol, PairRole};
use crate::transport::port::Port;

/// How long an engine waits for a line of its partner, as vLLM's handshake.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long an engine waits for the other leg of a request, as SGLang
/// (`SGLANG_DISAGGREGATION_WAITING_TIMEOUT`), and for the end of a transfer.
pub(super) const PARTNER_WAIT: Duration = Duration::from_secs(300);

/// How long a decode leg may wait for a prefill leg that was cut off.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// How long to wait after a failed `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Longest line in bytes.
const LINE: u64 = 64 << 10;

/// What a decode engine asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SideQuestion {
    /// The KV cache that is kept under this name.
    Take {
        /// The name.
        handoff: String,
        /// Who asks, with the id of the engine that it asks.
        by: EngineIdentity,
    },
    /// That of the prompt whose other leg is or will be in this room.
    Enter {
        /// The room.
        room: u64,
        /// Who asks.
        by: EngineIdentity,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SideAnswer {
    /// It can be read, and has this many tokens.
    Tokens(usize),
    /// It is not to be had: the kind of a violation.
    Refused(String),
    /// The engine that computed it, or its leg, is gone.
    Gone,
}

/// Why a decode engine has no KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoTransfer {
    Refused(PairViolation),
    Gone,
}

/// A KV cache that is being read. Memory of the prefill engine is held until this is dropped.
#[derive(Debug)]
struct Transfer {
    tokens: usize,
    connection: BufReader<TcpStream>,
}

// === The decode engine's side ===

/// Takes over what the engine of this id keeps under the name `handoff`.
///
/// # Errors
/// If it has nothing, or is not there.
pub(super) async fn take_over(
    engine: &PairEngine,
    address: (&str, u16),
    handoff: String,
    engine_id: String,
) -> Result<PairLeg, LegFailure> {
    let by = EngineIdentity {
        engine_id,
        ..engine.identity.clone()
    };
    let question = SideQuestion::Take { handoff, by };
    let asked = ask(address, &question, 2 * HANDSHAKE).await;
    receive(engine, asked).await
}

/// Takes over the prompt whose other leg is or will be in this room, and counts as waiting until it
/// is computed.
///
/// # Errors
/// As of [`take_over`].
pub(super) async fn meet(
    engine: &PairEngine,
    address: (&str, u16),
    room: u64,
) -> Result<PairLeg, LegFailure> {
    let by = engine.identity.clone();
    let question = SideQuestion::Enter { room, by };
    let waiting = engine.wait();
    let asked = ask(address, &question, PARTNER_WAIT).await;
    drop(waiting);
    receive(engine, asked).await
}

/// Host and port of a side channel that is named by a URL of the scheme `tcp`.
pub(super) fn address(url: &str) -> Option<(&str, u16)> {
    let (host, port) = url.strip_prefix("tcp://")?.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

/// Reads a KV cache, if there is one: the decode leg that has it.
async fn receive(
    engine: &PairEngine,
    asked: Result<Transfer, NoTransfer>,
) -> Result<PairLeg, LegFailure> {
    match asked {
        Ok(transfer) => {
            let received = transfer.tokens;
            engine.transfer(received).await;
            transfer.complete().await;
            Ok(PairLeg {
                received,
                ..PairLeg::default()
            })
        }
        Err(NoTransfer::Refused(violation)) => Err(violation.into()),
        Err(NoTransfer::Gone) => {
            sleep(HANDSHAKE.mul_f64(engine.scale)).await;
            Err(LegFailure::PartnerGone)
        }
    }
}

/// Asks the engine whose side channel is there. Waits for its answer for at most `patience`.
async fn ask(
    address: (&str, u16),
    question: &SideQuestion,
    patience: Duration,
) -> Result<Transfer, NoTransfer> {
    let asked = timeout(patience, exchange(address, question));
    match asked.await {
        Ok(Ok((SideAnswer::Tokens(tokens), connection))) => Ok(Transfer { tokens, connection }),
        Ok(Ok((SideAnswer::Refused(kind), _))) => {
            let violation = PairViolation::of(&kind);
            Err(violation.map_or(NoTransfer::Gone, NoTransfer::Refused))
        }
        Ok(Ok((SideAnswer::Gone, _)) | Err(_)) | Err(_) => Err(NoTransfer::Gone),
    }
}

async fn exchange(
    (host, port): (&str, u16),
    question: &SideQuestion,
) -> io::Result<(SideAnswer, BufReader<TcpStream>)> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connected = timeout(HANDSHAKE, TcpStream::connect((host, port))).await?;
    let mut connection = BufReader::new(connected?);
    connection.get_ref().set_nodelay(true)?;
    write_line(&mut connection, question).await?;
    let answer = read_line(&mut connection).await?;
    Ok((answer, connection))
}

impl Transfer {
    /// Ends a transfer that is complete.
    async fn complete(mut self) {
        // A prefill engine that is gone has nothing to free.
        let _gone = timeout(HANDSHAKE, self.connection.write_all(b"\n")).await;
    }
}

// === The prefill engine's side ===

/// Accepts for ever; dropping the future ends all connections.
pub(crate) async fn serve(port: Arc<Port>, engine: Arc<PairEngine>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = port.accept() => match accepted {
                Ok(stream) => {
                    let engine = Arc::clone(&engine);
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, &engine).await {
                            tracing::trace!(%error, "a simulated decode engine left");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the simulated side channel could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, engine: &PairEngine) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = BufReader::new(stream);
    let line = timeout(HANDSHAKE, read_bytes(&mut connection)).await??;
    if line.starts_with(bootstrap_server::QUERY) && engine.protocol == PairProtocol::VllmMooncake {
        return timeout(HANDSHAKE, list_ranks(&mut connection, engine)).await?;
    }
    match serde_json::from_slice(&line)? {
        SideQuestion::Take { handoff, by } => take(&mut connection, engine, &handoff, &by).await,
        SideQuestion::Enter { room, by } => enter(&mut connection, engine, room, &by).await,
    }
}

/// Answers a question by HTTP, of which the first line has been read.
async fn list_ranks(connection: &mut BufReader<TcpStream>, engine: &PairEngine) -> io::Result<()> {
    while read_bytes(connection).await?.len() > b"\r\n".len() {}
    let answer = bootstrap_server::answer(engine);
    connection.write_all(answer.as_bytes()).await?;
    connection.shutdown().await
}

async fn take(
    connection: &mut BufReader<TcpStream>,
    engine: &PairEngine,
    handoff: &str,
    by: &EngineIdentity,
) -> io::Result<()> {
    if by.engine_id != engine.identity.engine_id {
        return write_line(connection, &SideAnswer::Gone).await;
    }
    match engine.give(handoff, by) {
        Ok(ComputedPrompt { tokens, memory }) => {
            write_line(connection, &SideAnswer::Tokens(tokens)).await?;
            let _is_complete = read_to_end_of_transfer(connection).await;
            drop(memory);
            Ok(())
        }
        Err(violation) => write_line(connection, &refusal(violation)).await,
    }
}

async fn enter(
    connection: &mut BufReader<TcpStream>,
    engine: &PairEngine,
    room: u64,
    by: &EngineIdentity,
) -> io::Result<()> {
    let accepted = engine.accept(by);
    let entered = accepted.and_then(|()| engine.rooms.enter(room, PairRole::Decode));
    let seat = match entered {
        Ok(seat) => seat,
        Err(violation) => return write_line(connection, &refusal(violation)).await,
    };
    let computed = tokio::select! {
        computed = timeout(PARTNER_WAIT, computed(engine, &seat)) => computed,
        _left = connection.read_u8() => {
            seat.reach(RoomStage::Left);
            return Ok(());
        }
    };
    let Ok(RoomStage::Computed(tokens)) = computed else {
        return write_line(connection, &SideAnswer::Gone).await;
    };
    let written = write_line(connection, &SideAnswer::Tokens(tokens)).await;
    let is_complete = written.is_ok() && read_to_end_of_transfer(connection).await;
    if is_complete {
        engine.moved(room);
        seat.reach(RoomStage::Moved);
    } else {
        seat.reach(RoomStage::Left);
    }
    Ok(())
}

/// Waits for the prompt of a room that the decode leg is in. One whose prefill leg was cut off
/// waits in vain: it is to be cut off as well.
async fn computed(engine: &PairEngine, seat: &RoomSeat) -> RoomStage {
    let stage = seat.after(RoomStage::Joined).await;
    if stage == RoomStage::CutOff {
        sleep(LEFT_ALONE).await;
        engine.violations.count(PairViolation::LeftAlone);
    }
    stage
}

/// Waits for the end of a transfer. False if the decode engine left before it.
async fn read_to_end_of_transfer(connection: &mut BufReader<TcpStream>) -> bool {
    matches!(timeout(PARTNER_WAIT, connection.read_u8()).await, Ok(Ok(_)))
}

fn refusal(violation: PairViolation) -> SideAnswer {
    SideAnswer::Refused(violation.kind().to_owned())
}

// === Lines ===

async fn write_line(
    connection: &mut BufReader<TcpStream>,
    line: &impl Serialize,
) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    connection.write_all(&bytes).await
}

async fn read_line<T: DeserializeOwned>(connection: &mut BufReader<TcpStream>) -> io::Result<T> {
    Ok(serde_json::from_slice(&read_bytes(connection).await?)?)
}

/// A line with its end; empty at the end of the connection.
async fn read_bytes(connection: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    connection.take(LINE).read_until(b'\n', &mut line).await?;
    Ok(line)
}
