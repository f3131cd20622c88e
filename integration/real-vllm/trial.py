"""Hermes in front of real vLLM servers: each check says what it saw, as a row of a table in Markdown on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from servers import ADAPTER, MODEL, Hermes, Vllm, report, start_engines, wait_for

# About 1,500 tokens of the tiny model's tokenizer: dozens of KV blocks.
LONG = "The router keeps the newest snapshot, and every request sees exactly one of them. " * 60


@dataclass
class Trial:
    hermes: Hermes
    engines: list[Vllm]

    def running(self) -> float:
        return sum(engine.metric("vllm:num_requests_running") for engine in self.engines)


def ask(url: str, content: str, model: str = MODEL, tokens: int = 24, **fields: object) -> dict:
    response = httpx.post(f"{url}/v1/chat/completions", json=body(content, model, tokens, **fields), timeout=60)
    return response.raise_for_status().json()


def body(content: str, model: str = MODEL, tokens: int = 24, **fields: object) -> dict:
    messages = [{"role": "user", "content": content}]
    return {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **fields}


def text(answer: dict) -> str:
    return answer["choices"][0]["message"]["content"]


@contextmanager
def endless(trial: Trial) -> Iterator[None]:
    """A stream that has begun and lasts longer than the test; the client disconnects at the end."""
    request = body("Never stop.", tokens=3500, stream=True)
    with httpx.stream("POST", f"{trial.hermes.url}/v1/chat/completions", json=request, timeout=60) as response:
        # The iterator has to outlive this: httpx closes the stream with it.
        lines = response.iter_lines()
        next(lines)
        yield


# === Checks: each returns what it saw ===


def models_are_listed(trial: Trial) -> str:
    def known() -> dict:
        cards = httpx.get(f"{trial.hermes.url}/v1/models", timeout=5).json().get("data", [])
        return {card["id"]: card for card in cards}

    took = wait_for(lambda: {MODEL, ADAPTER} <= known().keys(), "both names are listed")
    assert known()[ADAPTER]["parent"] == MODEL
    return f"`{MODEL}` and `{ADAPTER}` (parent `{MODEL}`), {took:.1f} s after the start"


def the_text_is_the_same(trial: Trial) -> str:
    prompt = "Who carries messages between gods?"
    direct = [text(ask(engine.url, prompt)) for engine in trial.engines]
    routed = [text(ask(trial.hermes.url, prompt)) for _ in range(4)]
    assert len({*direct, *routed}) == 1, f"{direct} and {routed}"
    return f"24 greedy tokens, 2 × direct and 4 × routed: equal (`{direct[0][:24]}…`)"


def a_stream_arrives_token_by_token(trial: Trial) -> str:
    prompt = "Count the sandals."
    whole = text(ask(trial.hermes.url, prompt, tokens=64))
    request = body(prompt, tokens=64, stream=True, stream_options={"include_usage": True})
    pieces, times, events = [], [], []
    begun = time.monotonic()
    with httpx.stream("POST", f"{trial.hermes.url}/v1/chat/completions", json=request, timeout=60) as response:
        for line in filter(None, response.iter_lines()):
            events.append(line.removeprefix("data: "))
            if events[-1] != "[DONE]" and (choices := json.loads(events[-1])["choices"]):
                pieces.append(choices[0]["delta"].get("content") or "")
                times.append(time.monotonic() - begun)
    usage = json.loads(events[-2])["usage"]
    assert events[-1] == "[DONE]" and usage["completion_tokens"] == 64
    assert "".join(pieces) == whole
    assert times[-1] - times[0] > (times[-1]) / 2, "the pieces came at once"
    return f"{len(pieces)} chunks; the first after {times[0] * 1000:.0f} ms, the last after {times[-1] * 1000:.0f} ms; then usage and `[DONE]`"


def an_adapter_answers(trial: Trial) -> str:
    prompt = "Who carries messages between gods?"
    answers = [ask(trial.hermes.url, prompt, model=ADAPTER) for _ in range(3)]
    assert {answer["model"] for answer in answers} == {ADAPTER}
    assert text(answers[0]) != text(ask(trial.hermes.url, prompt))
    return "3 of 3 reached the server that has it; the text differs from the base model's"


def errors_pass_through(trial: Trial) -> str:
    request = body("hello", tokens=99_999)
    direct = httpx.post(f"{trial.engines[0].url}/v1/chat/completions", json=request)
    routed = httpx.post(f"{trial.hermes.url}/v1/chat/completions", json=request)
    assert (direct.status_code, direct.content) == (routed.status_code, routed.content)
    return f"{routed.status_code}, {len(routed.content)} bytes, equal to the engine's own: `{routed.json()['error']['message'][:60]}…`"


def engines_metrics_are_seen(trial: Trial) -> str:
    def samples() -> list[dict]:
        endpoints = [endpoint for pool in trial.hermes.snapshot()["pools"] for endpoint in pool["endpoints"]]
        return [(endpoint["load"] or {}).get("sample") or {} for endpoint in endpoints]

    wait_for(lambda: len(samples()) == 2 and all(samples()), "each endpoint has a sample")
    with endless(trial):
        took = wait_for(lambda: sum(sample.get("running", 0) for sample in samples()) == 1, "a sample has the request")
        seen = json.dumps(samples())
    return f"a running request is in `/debug/snapshot` after {took:.1f} s: `{seen}`"


def prefixes_hit(trial: Trial) -> str:
    engines_before = [engine.metric("vllm:prefix_cache_hits_total") for engine in trial.engines]
    before = trial.hermes.metric("hermes_tokens_total", 'kind="cached"')
    answers = [ask(trial.hermes.url, f"{LONG} Question {turn}?", tokens=4) for turn in range(8)]
    prompt = sum(answer["usage"]["prompt_tokens"] for answer in answers)
    reported = sum((answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for answer in answers)
    cached = trial.hermes.metric("hermes_tokens_total", 'kind="cached"') - before
    hits = [engine.metric("vllm:prefix_cache_hits_total") - b for engine, b in zip(trial.engines, engines_before)]
    assert cached == reported > 0.7 * prompt, f"cached {cached}, reported {reported}, prompt {prompt}, hits {hits}"
    return (
        f"8 prompts, {prompt} tokens with one prefix: `hermes_tokens_total{{kind=\"cached\"}}` +{cached:.0f} "
        f"({cached / prompt:.0%}); hits by engine {[int(hit) for hit in hits]}"
    )


def a_client_that_leaves_frees_its_engine(trial: Trial) -> str:
    wait_for(lambda: trial.running() == 0, "nothing runs")
    with endless(trial):
        wait_for(lambda: trial.running() == 1, "the engine generates")
    took = wait_for(lambda: trial.running() == 0, "the engine stopped", 15)
    return f"`vllm:num_requests_running` is 0 again after {took * 1000:.0f} ms, of 3,500 tokens to go"


def an_engine_dies(trial: Trial) -> str:
    statuses = []
    for number in range(30):
        if number == 5:
            trial.engines[0].kill()
        request = body(f"Message {number}: {LONG[:400]}", tokens=4)
        response = httpx.post(f"{trial.hermes.url}/v1/chat/completions", json=request, timeout=60)
        statuses.append(response.status_code)
    assert statuses == [200] * 30, f"{statuses}"
    retries = trial.hermes.metric("hermes_retries_total")
    return f"killed after 5 of 30 requests: 30 × 200, {retries:.0f} retries"


CHECKS: list[Callable[[Trial], str]] = [
    models_are_listed,
    the_text_is_the_same,
    a_stream_arrives_token_by_token,
    an_adapter_answers,
    errors_pass_through,
    engines_metrics_are_seen,
    prefixes_hit,
    a_client_that_leaves_frees_its_engine,
    an_engine_dies,
]


def main() -> int:
    hermes_binary, home, logs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with ExitStack() as stack:
        begun = time.monotonic()
        engines = start_engines(stack, home, logs)
        ready = time.monotonic() - begun
        hermes = Hermes(hermes_binary, engines, logs)
        stack.callback(hermes.kill)
        trial = Trial(hermes, engines)
        version = httpx.get(f"{engines[0].url}/version").json()["version"]
        print(f"Two vLLM {version} servers on one CPU core each, ready in {ready:.0f} s; `hermes serve --strategy kv-aware`.\n")
        failed = report(CHECKS, trial)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
