"""KV events of a real vLLM: Hermes' estimate of its cache, compared with what vLLM reports for every request.

Before each request Hermes is asked how much of its tokens the server has cached; the tokens are those that the server's own
`/tokenize` makes of it. Afterwards the server says in `usage` how much it was. The two have to be equal.
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
from servers import ADAPTER, MODEL, VLLM_READY_SECONDS, Hermes, Vllm, free_port, healthy, publishing, report, total, wait_for

BLOCK = 32
# Little enough for evictions, and one more than the longest prompt needs.
BLOCKS = 140


class Trial:
    """One server that publishes, and a router that follows it by the server's own word."""

    def __init__(self, binary: str, home: Path, logs: Path, stack: ExitStack) -> None:
        self.binary, self.home, self.logs, self.stack = binary, home, logs, stack
        self.random = random.Random(7)
        self.ports = [free_port() for _ in range(3)]
        self.engine = self.start_engine()
        self.config = logs / "events.yaml"
        self.config.write_text(
            f"pools:\n- name: chat\n  endpoints: ['{self.engine.url}']\n  strategy: kv-aware\n  kvEvents: {{}}\n"
        )
        self.hermes = self.start_hermes()

    def start_engine(self) -> Vllm:
        port, publish, replay = self.ports
        events = publishing(publish, replay, f"kv@127.0.0.1:{port}@{MODEL}")
        more = ["--num-gpu-blocks-override", str(BLOCKS), *events]
        engine = Vllm(0, self.home, self.logs, True, more, port)
        self.stack.callback(engine.kill)
        wait_for(lambda: healthy(engine), f"{engine.url} is healthy", VLLM_READY_SECONDS)
        return engine

    def start_hermes(self) -> Hermes:
        hermes = Hermes(self.binary, [], self.logs, self.config)
        self.stack.callback(hermes.kill)
        return hermes

    def blocks(self, result: str) -> float:
        """Blocks in vLLM's events with this result."""
        lines = httpx.get(f"{self.hermes.control}/metrics").raise_for_status().text.splitlines()
        return total([line for line in lines if f'result="{result}"' in line], "hermes_kv_events_blocks_total")

    def tokens(self, request: dict) -> list[int]:
        fields = {key: request[key] for key in ("model", "messages", "prompt") if key in request}
        return httpx.post(f"{self.engine.url}/tokenize", json=fields).raise_for_status().json()["tokens"]

    def ask(self, request: dict, salt: str | None = None) -> tuple[int, int | None, int]:
        """Sends a prompt. Returns its tokens, the cached tokens that Hermes estimates, and those that vLLM reports."""
        request = {"model": MODEL, "max_tokens": 4, "temperature": 0, "ignore_eos": True, **request}
        tokens = self.tokens(request) if isinstance(request.get("prompt", ""), str) else request["prompt"]
        adapter = ADAPTER if request["model"] == ADAPTER else None
        self.hermes.settled()
        estimated = self.hermes.estimated(tokens, adapter, salt)
        if salt:
            request["cache_salt"] = salt
        path = "chat/completions" if "messages" in request else "completions"
        answer = httpx.post(f"{self.engine.url}/v1/{path}", json=request, timeout=120).raise_for_status().json()
        usage = answer["usage"]
        assert usage["prompt_tokens"] == len(tokens), f"{usage} of {len(tokens)} tokens"
        return len(tokens), estimated, usage["prompt_tokens_details"]["cached_tokens"]

    def agree(self, requests: list[tuple[dict, str | None]]) -> str:
        """Asks all, and requires that belief and report are equal."""
        asked = [self.ask(request, salt) for request, salt in requests]
        wrong = [row for row in asked if row[1] != row[2]]
        assert not wrong, f"{len(wrong)} of {len(asked)} differ (prompt, estimated, reported): {wrong[:5]}"
        prompt, cached = sum(row[0] for row in asked), sum(row[2] for row in asked)
        hits = sum(row[2] > 0 for row in asked)
        return f"{len(asked)} requests, {prompt} tokens, {cached} cached in {hits} of them: all equal"

    def numbers(self, count: int) -> list[int]:
        return [self.random.randrange(100, 4000) for _ in range(count)]


def words(trial: Trial, count: int) -> str:
    return " ".join(trial.random.choice("the router keeps newest snapshot every request sees exactly one".split()) for _ in range(count))


# === Checks: each returns what it saw ===


def the_publisher_is_found_by_the_engines_word(trial: Trial) -> str:
    took = wait_for(lambda: trial.hermes.stream()["standing"] == "synced", "the stream is whole")
    stream = trial.hermes.stream()
    assert stream["publisher"].endswith(f":{trial.ports[1]}")
    return f"`{stream['publisher']}`, all is known {took:.1f} s after the start, nothing configured but `kvEvents: {{}}`"


def chats(trial: Trial) -> str:
    requests = []
    for _ in range(3):
        messages = [{"role": "system", "content": "You are terse. " + words(trial, 40)}]
        for turn in range(4):
            messages = [*messages, {"role": "user", "content": f"{turn}: {words(trial, 30)}"}]
            requests.append(({"messages": messages}, None))
            messages = [*messages, {"role": "assistant", "content": words(trial, 10)}]
    return trial.agree(requests)


def completions(trial: Trial) -> str:
    beginning = words(trial, 120)
    return trial.agree([({"prompt": beginning + words(trial, extra)}, None) for extra in (0, 5, 40, 5, 0, 90)])


def whole_prompts_in_the_cache(trial: Trial) -> str:
    """vLLM computes at least the last token, and with it its whole block."""
    requests = []
    for length in (BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, 4 * BLOCK + 1, 5 * BLOCK - 1):
        tokens = trial.numbers(length)
        requests += [({"prompt": tokens}, None)] * 2
    return trial.agree(requests)


def adapters(trial: Trial) -> str:
    tokens = trial.numbers(300)
    names = (MODEL, ADAPTER, MODEL, ADAPTER)
    return trial.agree([({"model": name, "prompt": tokens}, None) for name in names])


def salts(trial: Trial) -> str:
    tokens = trial.numbers(300)
    kinds = [(MODEL, None), (MODEL, "one"), (MODEL, "other"), (ADAPTER, "one")]
    return trial.agree([({"model": name, "prompt": tokens}, salt) for name, salt in kinds * 2])


def after_evictions(trial: Trial) -> str:
    bases = [trial.numbers(trial.random.randrange(100, 1500)) for _ in range(8)]
    requests = []
    for _ in range(60):
        base = trial.random.choice(bases)
        tokens = base[: trial.random.randrange(40, len(base))] + trial.numbers(trial.random.randrange(0, 100))
        adapter = ADAPTER if trial.random.random() < 0.3 else MODEL
        salt = "one" if trial.random.random() < 0.2 else None
        requests.append(({"model": adapter, "prompt": tokens}, salt))
    seen = trial.agree(requests)
    held = trial.hermes.stream()["blocks"]
    assert held <= BLOCKS, f"{held} blocks are indexed of a cache of {BLOCKS}"
    removed = trial.blocks("removed")
    assert removed > 0
    return f"{seen}; {removed:.0f} blocks were evicted on the way, {held} are held"


def copies_of_one_block(trial: Trial) -> str:
    """A prompt that is cached to its end has its last block computed, and stored, once more."""
    tokens = trial.numbers(10 * BLOCK)
    trial.hermes.settled()
    before = trial.blocks("stored")
    whole = trial.agree([({"prompt": tokens, "max_tokens": 1}, None)] * 3)
    trial.hermes.settled()
    stored = trial.blocks("stored") - before
    assert stored > 10, f"{stored} stored"
    longer = tokens + trial.numbers(5)
    requests = []
    for _ in range(14):
        requests += [({"prompt": trial.numbers(12 * BLOCK)}, None), ({"prompt": longer, "max_tokens": 1}, None)]
    return f"10 blocks 3 times: {stored:.0f} stored, {whole}; with evictions, {trial.agree(requests)}"


def after_a_reset(trial: Trial) -> str:
    tokens = trial.numbers(500)
    trial.ask({"prompt": tokens})
    httpx.post(f"{trial.engine.url}/reset_prefix_cache").raise_for_status()
    trial.hermes.settled()
    stale = trial.hermes.estimated(tokens)
    # vLLM publishes it with its next step.
    trial.ask({"prompt": trial.numbers(40)})
    seen = trial.agree([({"prompt": tokens}, None), ({"prompt": tokens}, None)])
    return f"until vLLM's next step, with which it publishes, the estimate is still {stale} tokens; then {seen}"


def a_router_that_restarts(trial: Trial) -> str:
    tokens = trial.numbers(700)
    trial.ask({"prompt": tokens})
    trial.hermes.settled()
    before = trial.hermes.stream()
    trial.hermes.kill()
    trial.hermes = trial.start_hermes()
    took = wait_for(lambda: trial.hermes.stream()["standing"] == "synced", "the stream is whole")
    after = trial.hermes.stream()
    assert (after["blocks"], after["next"]) == (before["blocks"], before["next"]), f"{before} and {after}"
    seen = trial.agree([({"prompt": tokens}, None)])
    return f"{after['next']} batches replayed, {after['blocks']} blocks known again after {took:.1f} s; {seen}"


def after_a_restart(trial: Trial) -> str:
    tokens = trial.numbers(600)
    trial.ask({"prompt": tokens})
    trial.engine.kill()
    gone = wait_for(lambda: trial.hermes.estimated(tokens) is None, "nothing is claimed")
    began = time.monotonic()
    trial.engine = trial.start_engine()
    ready = time.monotonic() - began
    back = wait_for(lambda: trial.hermes.stream()["standing"] == "synced", "the stream is whole", 60)
    seen = trial.agree([({"prompt": tokens}, None), ({"prompt": tokens}, None), ({"prompt": trial.numbers(200)}, None)])
    return f"killed: no claims after {gone:.1f} s; started again ({ready:.0f} s): known to be empty {back:.1f} s later; {seen}"


CHECKS = [
    the_publisher_is_found_by_the_engines_word,
    chats,
    completions,
    whole_prompts_in_the_cache,
    adapters,
    salts,
    after_evictions,
    copies_of_one_block,
    after_a_reset,
    a_router_that_restarts,
    after_a_restart,
]


def main() -> int:
    binary, home, logs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with ExitStack() as stack:
        trial = Trial(binary, home, logs, stack)
        version = httpx.get(f"{trial.engine.url}/version").json()["version"]
        print(f"vLLM {version} on one CPU core, {BLOCKS} blocks of {BLOCK} tokens; `hermes serve` with `kvEvents: {{}}`.\n")
        failed = report(CHECKS, trial)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
