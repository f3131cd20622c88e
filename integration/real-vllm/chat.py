"""Conversations with two real vLLM servers, under one strategy after the other: how long until the first token, and how
much of the prompts was cached.

The same conversations under each strategy; caches are emptied and the router restarted before each, and the whole is
done twice, so that what else the machine does meanwhile shows as a difference between two rounds of one strategy.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
from servers import MODEL, VLLM_READY_SECONDS, Hermes, Vllm, free_port, healthy, publishing, total, wait_for

CONVERSATIONS = 16
TURNS = 6
# At once, on two cores that also run the router and this client.
USERS = 4
ROUNDS = 2
WORDS = "the router keeps newest snapshot every request sees exactly one of them and sandals carry messages between gods".split()


@dataclass
class Answer:
    first: float
    prompt: int
    cached: int
    text: str


def start_engine(core: int, home: Path, logs: Path, stack: ExitStack) -> Vllm:
    engine = Vllm(core, home, logs, False, publishing(free_port(), free_port()))
    stack.callback(engine.kill)
    return engine


def strategies(home: Path) -> dict[str, str]:
    """The lines of a pool's configuration, by what the table calls them."""
    files = f"kvEvents: {{}}\n  tokenizer: {{path: '{home / 'model'}'}}"
    return {
        "round-robin": "strategy: round-robin",
        "kv-aware": "strategy: kv-aware",
        "kv-aware, KV events": f"strategy: kv-aware\n  {files}",
    }


def converse(url: str, number: int) -> list[Answer]:
    """One conversation, the same for the same number."""
    rng = random.Random(number)

    def words(count: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(count))

    # Four assistants share their instructions among them.
    instructions = " ".join(random.Random(1000 + number % 4).choice(WORDS) for _ in range(250))
    messages = [{"role": "system", "content": instructions}]
    answers = []
    for turn in range(TURNS):
        messages.append({"role": "user", "content": f"{number}.{turn} {words(220)}"})
        answers.append(ask(url, messages))
        messages.append({"role": "assistant", "content": answers[-1].text})
    return answers


def ask(url: str, messages: list[dict]) -> Answer:
    request = {"model": MODEL, "messages": messages, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    request |= {"stream": True, "stream_options": {"include_usage": True}}
    first, text, usage = 0.0, "", {}
    begun = time.monotonic()
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=request, timeout=120) as response:
        response.raise_for_status()
        for line in filter(None, response.iter_lines()):
            if line == "data: [DONE]":
                break
            chunk = json.loads(line.removeprefix("data: "))
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"]:
                piece = choice["delta"].get("content") or ""
                first = first or (time.monotonic() - begun if piece else 0.0)
                text += piece
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Answer(first, usage["prompt_tokens"], cached, text)


def calibration(hermes: Hermes, source: str) -> tuple[float, float]:
    """Cached tokens that Hermes expected by this source, and those that the servers reported of the same requests."""
    lines = httpx.get(f"{hermes.control}/metrics").raise_for_status().text.splitlines()
    mine = [line for line in lines if f'source="{source}"' in line]

    def tokens(kind: str) -> float:
        name = "hermes_control_plane_cache_prediction_tokens_total"
        return total([line for line in mine if f'kind="{kind}"' in line], name)

    return tokens("expected"), tokens("reported")


def run(binary: str, name: str, lines: str, engines: list[Vllm], logs: Path) -> str:
    config = logs / "chat.yaml"
    urls = ", ".join(f"'{engine.url}'" for engine in engines)
    config.write_text(f"pools:\n- name: chat\n  endpoints: [{urls}]\n  {lines}\n")
    for engine in engines:
        httpx.post(f"{engine.url}/reset_prefix_cache").raise_for_status()
    hermes = Hermes(binary, [], logs, config)
    try:
        wait_for(lambda: httpx.get(f"{hermes.admin}/readyz").status_code == 200, "the router is ready")
        # The servers publish the removal of their blocks with the next step.
        for engine in engines:
            httpx.post(f"{engine.url}/v1/completions", json={"model": MODEL, "prompt": "?", "max_tokens": 1}).raise_for_status()
        begun = time.monotonic()
        with ThreadPoolExecutor(USERS) as users:
            answers = sum(users.map(lambda number: converse(hermes.url, number), range(CONVERSATIONS)), [])
        took = time.monotonic() - begun
        prediction = ""
        if "KV events" in name:
            expected, reported = calibration(hermes, "kv_events")
            prediction = f"{expected:.0f} / {reported:.0f}"
    finally:
        hermes.kill()
    first = sorted(answer.first * 1000 for answer in answers)
    hits = sum(answer.cached for answer in answers) / sum(answer.prompt for answer in answers)
    at = lambda share: first[int((len(first) - 1) * share)]  # noqa: E731
    return f"{statistics.mean(first):.0f} | {at(0.5):.0f} | {at(0.9):.0f} | {hits:.0%} | {took:.1f} | {prediction}"


def main() -> int:
    binary, home, logs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with ExitStack() as stack:
        engines = [start_engine(core, home, logs, stack) for core in (0, 1)]
        for engine in engines:
            wait_for(lambda engine=engine: healthy(engine), f"{engine.url} is healthy", VLLM_READY_SECONDS)
        version = httpx.get(f"{engines[0].url}/version").json()["version"]
        print(f"Two vLLM {version} servers on one CPU core each; {CONVERSATIONS} conversations of {TURNS} turns, {USERS} at once.\n")
        print("| round | strategy | TTFT mean, ms | p50 | p90 | cached | all took, s | events: expected / reported tokens |")
        print("|---|---|---|---|---|---|---|---|")
        for number in range(1, ROUNDS + 1):
            for name, lines in strategies(home).items():
                print(f"| {number} | {name} | {run(binary, name, lines, engines, logs)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
