"""SGLang's own prefix cache and publisher, without its engine: Hermes' estimate of the cache, compared with its contents.

An SGLang server needs a GPU; its `RadixCache`, the events that it records and the ZeroMQ publisher do not. They run here as
SGLang ships them, behind a port that answers health checks, and every question is put to both: to Hermes, by
`/debug/kv-events`, and to the cache itself, by `match_prefix`.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from array import array
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from servers import Hermes, free_port, report, wait_for

sys.path.append(sys.argv[4])
import torch  # noqa: E402
from sglang.srt.disaggregation.kv_events import EventPublisherFactory, KVEventBatch  # noqa: E402
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams, MatchPrefixParams  # noqa: E402
from sglang.srt.mem_cache.radix_cache import RadixCache, RadixKey  # noqa: E402

PAGE = 16
# Evicted down to this, so that half of what is asked about is gone.
TOKENS = 6_000


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Allocator:
    """What `evict` gives freed slots to."""

    device = "cpu"

    def free(self, *_: object, **__: object) -> None:
        pass

    free_segment = free


class Engine:
    """The cache of one server, and its publisher."""

    def __init__(self, publish: int, replay: int) -> None:
        self.cache = RadixCache.create_simulated(mock_allocator=Allocator(), page_size=PAGE, enable_kv_cache_events=True)
        config = f'{{"publisher":"zmq","endpoint":"tcp://*:{publish}","replay_endpoint":"tcp://*:{replay}"}}'
        self.publisher = EventPublisherFactory.create(config)

    def publish(self) -> None:
        if events := self.cache.take_events():
            self.publisher.publish(KVEventBatch(ts=time.time(), events=events))

    def serve(self, tokens: list[int], salt: str | None = None) -> None:
        """As after a request: its tokens are in the cache, and what is over the cache's size is not."""
        key = RadixKey(token_ids=array("q", tokens), cache_salt=salt)
        self.cache.insert(InsertParams(key=key, value=torch.arange(len(tokens))))
        over = self.cache.evictable_size() - TOKENS
        if over > 0:
            self.cache.evict(EvictParams(num_tokens=over))
        self.publish()

    def cached(self, tokens: list[int], salt: str | None = None) -> int:
        """Of a prompt of which the last token is to be computed, as a scheduler asks."""
        key = RadixKey(token_ids=array("q", tokens[:-1]), cache_salt=salt)
        return self.cache.match_prefix(MatchPrefixParams(key=key)).device_prefix_len


class Trial:
    def __init__(self, binary: str, logs: Path, stack: ExitStack) -> None:
        self.binary, self.logs, self.stack, self.random = binary, logs, stack, random.Random(5)
        self.port, self.ports = free_port(), (free_port(), free_port())
        self.engine = Engine(*self.ports)
        server = ThreadingHTTPServer(("127.0.0.1", self.port), Healthy)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack.callback(server.shutdown)
        self.config = logs / "radix.yaml"
        self.config.write_text(
            f"pools:\n- name: chat\n  models: [m]\n  engine: sglang\n  endpoints: ['http://127.0.0.1:{self.port}']\n"
            f"  strategy: kv-aware\n  kvEvents: {{port: {self.ports[0]}, replayPort: {self.ports[1]}, ranks: 1}}\n"
        )
        self.hermes = self.start_hermes()

    def start_hermes(self) -> Hermes:
        hermes = Hermes(self.binary, [], self.logs, self.config)
        self.stack.callback(hermes.kill)
        return hermes

    def settled(self) -> None:
        """Waits until the newest batch was taken in."""
        published = lambda: self.engine.publisher._event_queue.empty()  # noqa: E731
        wait_for(published, "all is published")
        self.hermes.settled()

    def agree(self, questions: list[tuple[list[int], str | None]]) -> str:
        """Asks both about all, and requires that they say the same."""
        self.settled()
        rows = [(len(tokens), self.hermes.estimated(tokens, salt=salt), self.engine.cached(tokens, salt)) for tokens, salt in questions]
        wrong = [row for row in rows if row[1] != row[2]]
        assert not wrong, f"{len(wrong)} of {len(rows)} differ (prompt, estimated, cached): {wrong[:5]}"
        return f"{len(rows)} prompts, {sum(row[2] for row in rows)} of {sum(row[0] for row in rows)} tokens cached: all equal"

    def numbers(self, count: int) -> list[int]:
        return [self.random.randrange(100, 150_000) for _ in range(count)]


# === Checks: each returns what it saw ===


def the_stream_is_followed(trial: Trial) -> str:
    trial.engine.publish()
    took = wait_for(lambda: trial.hermes.stream()["standing"] == "synced", "the stream is whole")
    return f"all is known {took:.1f} s after the start"


def prompts_that_share_beginnings(trial: Trial) -> str:
    base = trial.numbers(400)
    prompts = [base[: trial.random.randrange(1, 400)] + trial.numbers(trial.random.randrange(1, 200)) for _ in range(12)]
    for prompt in prompts[:8]:
        trial.engine.serve(prompt)
    return trial.agree([(prompt, None) for prompt in [*prompts, base, base[:PAGE], base[: PAGE + 1], base[:5]]])


def after_evictions(trial: Trial) -> str:
    prompts = [trial.numbers(trial.random.randrange(50, 900)) for _ in range(30)]
    for prompt in prompts:
        trial.engine.serve(prompt)
    assert trial.engine.cache.evictable_size() <= TOKENS
    return trial.agree([(prompt, None) for prompt in prompts])


def salts(trial: Trial) -> str:
    tokens = trial.numbers(320)
    trial.engine.serve(tokens, "one")
    return trial.agree([(tokens, "one"), (tokens, None), (tokens, "other")])


def a_router_that_restarts(trial: Trial) -> str:
    tokens = trial.numbers(500)
    trial.engine.serve(tokens)
    trial.settled()
    trial.hermes.kill()
    trial.hermes = trial.start_hermes()
    took = wait_for(lambda: trial.hermes.stream()["standing"] == "synced", "the stream is whole")
    return f"{trial.hermes.stream()['next']} batches replayed, whole after {took:.1f} s; {trial.agree([(tokens, None)])}"


def after_a_reset(trial: Trial) -> str:
    tokens = trial.numbers(300)
    trial.engine.serve(tokens)
    trial.settled()
    assert trial.hermes.estimated(tokens)
    trial.engine.cache.reset()
    trial.engine.publish()
    return trial.agree([(tokens, None)])


CHECKS = [
    the_stream_is_followed,
    prompts_that_share_beginnings,
    after_evictions,
    salts,
    a_router_that_restarts,
    after_a_reset,
]


def main() -> int:
    binary, logs = sys.argv[1], Path(sys.argv[3])
    with ExitStack() as stack:
        trial = Trial(binary, logs, stack)
        print(f"SGLang's RadixCache with pages of {PAGE} tokens, and its publisher.\n")
        failed = report(CHECKS, trial)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
