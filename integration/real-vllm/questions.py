"""Requests of every API that generates text, whose answers can be compared: greedy, and different for each number."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx
from servers import ADAPTER, MODEL

WORDS = "the router keeps newest snapshot every request sees exactly one of them and sandals carry messages between gods".split()
# The model's text is garbage, but of `strict` arguments it has to match this, and so it ends by itself.
TOOL = {
    "name": "walk",
    "description": "Walks somewhere.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"to": {"enum": ["hill", "shore"]}, "steps": {"enum": [1, 20, 300]}},
        "required": ["to", "steps"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True)
class Question:
    kind: str
    path: str
    body: dict


@dataclass(frozen=True)
class Answer:
    text: str
    usage: dict
    seconds: float
    # Until the first token, of a stream.
    first: float = 0.0

    @property
    def prompt_tokens(self) -> int:
        # Of a message the tokens that were cached, or are now, are stated apart from the others.
        names = ("prompt_tokens", "input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        return sum(self.usage.get(name) or 0 for name in names)

    @property
    def cached(self) -> int:
        """Of chats and completions."""
        return (self.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


# `ask` or `stream`: some texts, such as the arguments of a tool, differ between the two even of one server.
Way = Callable[[str, Question], Answer]


def prose(seed: object, words: int) -> str:
    rng = random.Random(str(seed))
    return f"{seed}: " + " ".join(rng.choice(WORDS) for _ in range(words))


def chat(seed: object, words: int, tokens: int = 24, /, **fields: object) -> Question:
    messages = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": prose(seed, words)}]
    limits = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return Question("chat", "/v1/chat/completions", {"model": MODEL, "messages": messages, **limits, **fields})


def tool_call(seed: object, words: int) -> Question:
    choice = {"type": "function", "function": {"name": TOOL["name"]}}
    body = chat(seed, words, 64, tools=[{"type": "function", "function": TOOL}], tool_choice=choice).body
    del body["ignore_eos"]
    return Question("chat with a tool", "/v1/chat/completions", body)


def adapter(seed: object, words: int) -> Question:
    return replace(chat(seed, words, model=ADAPTER), kind="chat of an adapter")


def completion(seed: object, words: int, tokens: int = 24, /, **fields: object) -> Question:
    body = {"model": MODEL, "prompt": prose(seed, words), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    return Question("completion", "/v1/completions", {**body, **fields})


def token_ids(seed: object, words: int) -> Question:
    rng = random.Random(str(seed))
    ids = [rng.randrange(100, 4000) for _ in range(words)]
    return replace(completion(seed, words, prompt=ids), kind="completion of token ids")


def response(seed: object, words: int) -> Question:
    body = {"model": MODEL, "input": prose(seed, words), "max_output_tokens": 24, "temperature": 0, "store": False}
    return Question("response", "/v1/responses", body)


def message(seed: object, words: int) -> Question:
    messages = [{"role": "user", "content": prose(seed, words)}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 24, "temperature": 0, "system": "You are terse."}
    return Question("message", "/v1/messages", body)


def variants(seed: object) -> list[Question]:
    """One question for each field that changes what is generated, or what is reported of it."""
    schema = {"type": "json_schema", "json_schema": {"name": "walk", "schema": TOOL["parameters"]}}
    chats = [
        {"max_tokens": 1},
        {"max_completion_tokens": 8},
        {"min_tokens": 20, "ignore_eos": False},
        {"logprobs": True, "top_logprobs": 3},
        {"stop": ["a"]},
        {"response_format": schema, "ignore_eos": False, "max_tokens": 64},
        {"temperature": 1, "seed": 7},
        {"repetition_penalty": 1.3},
        {"presence_penalty": 1.0, "frequency_penalty": 0.5},
        {"logit_bias": {"300": 5}},
        {"bad_words": ["the"]},
        {"cache_salt": "pepper"},
        {"add_generation_prompt": False},
        {"echo": True},
        {"return_token_ids": True},
        {"request_id": "mine"},
        {"skip_special_tokens": False},
        {"truncate_prompt_tokens": 50},
        {"n": 1, "user": "alice", "stream": False},
    ]
    completions = [
        {"echo": True},
        {"logprobs": 3},
        {"prompt": [500]},
        {"min_tokens": 20, "max_tokens": 24},
        {"return_tokens_as_token_ids": True, "logprobs": 1},
        {"structured_outputs": {"choice": ["hill", "shore"]}, "ignore_eos": False},
    ]
    questions = [chat(f"{seed} {number}", 60, **fields) for number, fields in enumerate(chats)]
    questions += [completion(f"{seed} {number}", 60, **fields) for number, fields in enumerate(completions, len(chats))]
    return questions


KINDS = [chat, tool_call, adapter, completion, token_ids, response, message]


def ask(url: str, question: Question, seconds: float = 120) -> Answer:
    """The whole answer."""
    begun = time.monotonic()
    reply = httpx.post(url + question.path, json=question.body, timeout=seconds)
    took = time.monotonic() - begun
    require_served(reply.status_code, reply.text)
    answer = reply.json()
    return Answer(text_of(answer), answer["usage"], took)


def stream(url: str, question: Question, seconds: float = 120) -> Answer:
    """The same answer in pieces, put together again."""
    body = {**question.body, "stream": True}
    if question.path.endswith("completions"):
        body["stream_options"] = {"include_usage": True}
    text, usage, first = "", {}, 0.0
    begun = time.monotonic()
    with httpx.stream("POST", url + question.path, json=body, timeout=seconds) as reply:
        if reply.status_code != 200:
            require_served(reply.status_code, reply.read().decode(errors="replace"))
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            require_served(500 if "error" in event and event["error"] else 200, line)
            piece = piece_of(event)
            first = first or (time.monotonic() - begun if piece else 0.0)
            text += piece
            for part in (event, event.get("message"), event.get("response")):
                usage |= (part or {}).get("usage") or {}
    return Answer(text, usage, time.monotonic() - begun, first)


@contextmanager
def left_behind(url: str, question: Question) -> Iterator[None]:
    """A request whose client disconnects at the end, without having read anything."""
    address = httpx.URL(url)
    client = http.client.HTTPConnection(address.host, address.port, timeout=60)
    try:
        client.request("POST", question.path, json.dumps(question.body), {"content-type": "application/json"})
        yield
    finally:
        client.close()


@contextmanager
def pending(url: str, question: Question) -> Iterator[Future[Answer]]:
    """A request that is being answered meanwhile."""
    with ThreadPoolExecutor(1) as client:
        yield client.submit(ask, url, question)


def require_served(status: int, text: str) -> None:
    if status != 200:
        raise AssertionError(f"{status}: {text[:300]}")


def text_of(answer: dict) -> str:
    """What the model wrote, in any API's answer."""
    if "choices" in answer:
        return "".join(choice_text(choice.get("message") or choice) for choice in answer["choices"])
    if "output" in answer:
        return "".join(part["text"] for item in answer["output"] for part in item.get("content") or [])
    return "".join(part.get("text") or part.get("thinking") or "" for part in answer["content"])


def piece_of(event: dict) -> str:
    """What an event of a stream adds to it."""
    if "choices" in event:
        return "".join(choice_text(choice.get("delta") or choice) for choice in event["choices"])
    if event.get("type") in ("response.output_text.delta", "response.reasoning_text.delta"):
        return event["delta"]
    if event.get("type") == "content_block_delta":
        return event["delta"].get("text") or event["delta"].get("thinking") or ""
    return ""


def choice_text(choice: dict) -> str:
    calls = "".join((call["function"].get("arguments") or "") for call in choice.get("tool_calls") or [])
    return (choice.get("text") or choice.get("content") or "") + calls
