"""vLLM's own publisher of KV events, which connects to Hermes, without vLLM's engine.

`ZmqEventPublisher` and the structures that it encodes run here as vLLM ships them, over libzmq, behind a port that answers
as an engine does when it is asked where its publisher is. What is published is known, so that Hermes' estimate can be
compared with it.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
from servers import Hermes, free_port, report, wait_for
from vllm.distributed import kv_events as vllm

BLOCK = 16


class OldStored(msgspec.Struct, array_like=True, omit_defaults=True, tag="BlockStored"):
    """As vLLM's of 0.11 to 0.23: an array that begins with the type."""

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None


class OldRemoved(msgspec.Struct, array_like=True, omit_defaults=True, tag="BlockRemoved"):
    block_hashes: list[int]
    medium: str | None


class Engine:
    """A cache, and the publisher of its events."""

    def __init__(self, trial: Trial, topic: str, replays: bool = True, rank: int = 0) -> None:
        self.random, self.held = trial.random, {}
        # Both ports are moved up by the rank.
        replay = f"tcp://*:{trial.replay}" if replays else None
        endpoint = f"tcp://127.0.0.1:{trial.listen}"
        self.publisher = vllm.ZmqEventPublisher(rank, endpoint, replay, topic=topic)

    def publish(self, *events: object) -> None:
        self.publisher.publish(vllm.EventBatch(ts=time.time(), events=list(events)))

    def store(self, blocks: int, old: bool = False) -> list[int]:
        """A new prompt is cached."""
        tokens = [self.random.randrange(100, 150_000) for _ in range(blocks * BLOCK)]
        names = [self.random.getrandbits(64) for _ in range(blocks)]
        kind = OldStored if old else vllm.BlockStored
        self.publish(kind(names, None, tokens, BLOCK, None, "GPU", None))
        self.held[tuple(tokens)] = names
        return tokens

    def evict(self, tokens: list[int], blocks: int, old: bool = False) -> None:
        """The last blocks of a prompt are gone."""
        kind = OldRemoved if old else vllm.BlockRemoved
        self.publish(*(kind([name], "GPU") for name in self.held[tuple(tokens)][-blocks:]))

    def stop(self) -> None:
        self.publisher.shutdown()


class Trial:
    def __init__(self, binary: str, logs: Path, stack: ExitStack) -> None:
        self.binary, self.logs, self.stack, self.random = binary, logs, stack, random.Random(7)
        self.port, self.replay = free_port(), free_port()
        # The second rank dials the port that follows.
        self.listen = next(port for port in iter(free_port, 0) if port + 1 != self.replay)
        self.engine: Engine | None = None
        self.ranks: list[Engine] = []
        server = ThreadingHTTPServer(("127.0.0.1", self.port), self.handler())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        self.topic = f"kv@127.0.0.1:{self.port}@m"
        self.hermes = self.start_hermes()

    def handler(self) -> type[BaseHTTPRequestHandler]:
        trial = self

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                ranks = trial.ranks if self.path == "/kv_event_sources" else []
                sources = {rank: engine.publisher.get_publisher_config().__dict__ for rank, engine in enumerate(ranks)}
                body = json.dumps(sources).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Answers

    def start_hermes(self, kv_events: str = "{}") -> Hermes:
        config = self.logs / "dialers.yaml"
        config.write_text(
            f"pools:\n- name: chat\n  models: [m]\n  engine: vllm\n  endpoints: ['http://127.0.0.1:{self.port}']\n"
            f"  strategy: kv-aware\n  kvEvents: {kv_events}\n"
        )
        flags = [flag for rank in (0, 1) for flag in ("--kv-events-listen", f"127.0.0.1:{self.listen + rank}")]
        hermes = Hermes(self.binary, [], self.logs, config, flags)
        self.stack.callback(hermes.kill)
        return hermes

    def restart_hermes(self, kv_events: str = "{}") -> None:
        self.hermes.kill()
        self.hermes = self.start_hermes(kv_events)

    def start_engine(self, topic: str | None = None, **options: object) -> Engine:
        """An engine in the place of the one before."""
        if self.engine:
            self.engine.stop()
        accepted = self.hermes.arrivals("accepted")
        self.engine = Engine(self, self.topic if topic is None else topic, **options)
        self.ranks = [self.engine]
        self.await_stream(accepted)
        return self.engine

    def await_stream(self, accepted: float) -> float:
        """Waits until its publisher is followed, which takes a batch: PUB drops those without a subscriber."""

        def is_followed() -> bool:
            self.engine.store(1)
            time.sleep(0.1)
            return self.hermes.arrivals("accepted") > accepted

        return wait_for(is_followed, "the publisher is followed")

    def expect(self, tokens: list[int], cached: int, what: str) -> None:
        prompt = [*tokens, 1]
        wait_for(lambda: self.hermes.estimated(prompt) == cached, f"{what}: {cached} of {len(tokens)} tokens")


# === Checks: each returns what it saw ===


def a_publisher_is_known_by_its_topic(trial: Trial) -> str:
    began = time.monotonic()
    engine = trial.start_engine()
    trial.expect(engine.store(8), 8 * BLOCK, "stored")
    standing, publisher = (trial.hermes.stream()[key] for key in ("standing", "publisher"))
    assert publisher.startswith("127.0.0.1:"), publisher
    return f"`{trial.topic}`, {standing} {time.monotonic() - began:.1f} s after its start"


def stored_and_removed_blocks_in_both_forms(trial: Trial) -> str:
    for old in (False, True):
        tokens = trial.engine.store(12, old)
        trial.expect(tokens, 12 * BLOCK, "stored")
        trial.engine.evict(tokens, 5, old)
        trial.expect(tokens, 7 * BLOCK, "evicted")
    assert trial.hermes.stream()["standing"] == "synced"
    return "vLLM 0.32's maps, and the arrays of before: equal to what was published"


def a_cleared_cache(trial: Trial) -> str:
    tokens = trial.engine.store(4)
    trial.expect(tokens, 4 * BLOCK, "stored")
    trial.engine.publish(vllm.AllBlocksCleared())
    trial.expect(tokens, 0, "cleared")
    return "known to be empty"


def a_router_that_restarts(trial: Trial) -> str:
    tokens = trial.engine.store(6)
    trial.expect(tokens, 6 * BLOCK, "stored")
    trial.restart_hermes()
    took = trial.await_stream(0)
    trial.expect(tokens, 6 * BLOCK, "replayed")
    assert trial.hermes.stream()["standing"] == "synced"
    return f"libzmq connects again, {took:.1f} s after the start; {trial.hermes.stream()['next']} batches known"


def an_engine_that_restarts(trial: Trial) -> str:
    tokens = trial.engine.store(6)
    trial.expect(tokens, 6 * BLOCK, "stored")
    trial.start_engine()
    trial.expect(tokens, 0, "of the engine before")
    trial.expect(trial.engine.store(3), 3 * BLOCK, "stored")
    return "what the one before had is dropped"


def without_replay(trial: Trial) -> str:
    engine = trial.start_engine(replays=False)
    tokens = engine.store(5)
    trial.expect(tokens, 5 * BLOCK, "stored")
    standing = trial.hermes.stream()["standing"]
    trial.restart_hermes()
    trial.await_stream(0)
    assert trial.hermes.estimated([*tokens, 1]) is None
    trial.expect(engine.store(2), 2 * BLOCK, "stored")
    return f"{standing}; after a restart of the router {trial.hermes.stream()['standing']}: earlier blocks are unknown, later ones known"


def topics_without_an_endpoint(trial: Trial) -> str:
    for topic in ("", "kv-events", "kv@127.0.0.1@m"):
        engine = trial.start_engine(topic)
        trial.expect(engine.store(2), 2 * BLOCK, "stored")
    return "none, `kv-events` and `kv@127.0.0.1@m`: known by the address"


def the_topic_of_another_endpoint(trial: Trial) -> str:
    trial.engine.stop()
    refused = trial.hermes.arrivals("unknown_endpoint")
    trial.engine = Engine(trial, "kv@127.0.0.9:1@m")
    trial.ranks = [trial.engine]

    def is_refused() -> bool:
        trial.engine.store(1)
        return trial.hermes.arrivals("unknown_endpoint") >= refused + 2

    took = wait_for(is_refused, "it is refused twice")
    assert trial.hermes.stream()["standing"] == "unsynced"
    return f"refused twice in {took:.1f} s, over one connection"


def a_second_rank(trial: Trial) -> str:
    trial.engine.stop()
    trial.restart_hermes("{ranks: 2}")
    first = trial.start_engine()
    second = Engine(trial, trial.topic, rank=1)
    trial.ranks = [first, second]
    trial.stack.callback(second.stop)

    def are_followed() -> bool:
        second.store(1)
        time.sleep(0.1)
        return trial.hermes.arrivals("accepted") == 2

    wait_for(are_followed, "both ranks are followed")
    trial.expect(first.store(3), 3 * BLOCK, "of rank 0")
    trial.expect(second.store(4), 4 * BLOCK, "of rank 1")
    return "it connects to the next port, and both caches are known"


CHECKS = [
    a_publisher_is_known_by_its_topic,
    stored_and_removed_blocks_in_both_forms,
    a_cleared_cache,
    a_router_that_restarts,
    an_engine_that_restarts,
    without_replay,
    topics_without_an_endpoint,
    the_topic_of_another_endpoint,
    a_second_rank,
]


def main() -> int:
    binary, logs = sys.argv[1], Path(sys.argv[3])
    with ExitStack() as stack:
        trial = Trial(binary, logs, stack)
        print("vLLM's ZmqEventPublisher and its structures, which connect to Hermes.\n")
        failed = report(CHECKS, trial)
        if trial.engine:
            trial.engine.stop()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
