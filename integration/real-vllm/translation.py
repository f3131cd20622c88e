"""What is translated for a real vLLM's chat completions, compared with its own messages API.

Each request of the messages API goes to both: as it is, and translated there and back. Both answers, whole and streamed,
have the same content, stop reason and counts, since the model is the same and samples nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
from servers import MODEL, VLLM_READY_SECONDS, Vllm, healthy, report, wait_for

TOOL = {"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
CALLED = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"a": "b"}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "fine"}]},
]
REQUESTS: dict[str, dict] = {
    "a text": {},
    "a stop sequence": {"max_tokens": 30, "stop_sequences": ["e"]},
    "instructions": {"system": [{"type": "text", "text": "Be brief."}]},
    "few candidates": {"top_k": 5, "top_p": 0.5},
    "a call and its result": {"tools": [TOOL], "messages": CALLED},
    "a tool by its name": {"max_tokens": 60, "tools": [TOOL], "tool_choice": {"type": "tool", "name": "look"}},
    "any tool": {"max_tokens": 60, "tools": [TOOL], "tool_choice": {"type": "any"}},
    "a schema": {"max_tokens": 40, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "no thinking": {"thinking": {"type": "disabled"}},
}


class Trial:
    """A vLLM, and the translation as a command."""

    def __init__(self, command: str, engine: Vllm) -> None:
        self.command, self.engine = command, engine

    def translate(self, kind: str, body: bytes) -> bytes:
        return subprocess.run([self.command, kind], input=body, capture_output=True, check=True, timeout=60).stdout

    def post(self, path: str, body: bytes) -> bytes:
        headers = {"content-type": "application/json"}
        return httpx.post(f"{self.engine.url}{path}", content=body, headers=headers, timeout=120).raise_for_status().content

    def answers(self, fields: dict, stream: bool) -> tuple[dict, dict]:
        """The answer by the translation, and vLLM's own."""
        hello = [{"role": "user", "content": "hello there"}]
        request = {"model": MODEL, "max_tokens": 12, "temperature": 0, "messages": hello, "stream": stream, **fields}
        body = json.dumps(request).encode()
        chat = self.post("/v1/chat/completions", self.translate("messages-request", body))
        own = self.post("/v1/messages", body)
        if stream:
            return message_of(self.translate("messages-stream", chat)), message_of(own)
        return json.loads(self.translate("messages-answer", chat)), json.loads(own)


def message_of(stream: bytes) -> dict:
    """The message that a client puts together."""
    message: dict = {}
    for line in stream.decode().splitlines():
        if not line.startswith("data: "):
            continue
        event = json.loads(line.removeprefix("data: "))
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                for field, text in delta.items():
                    if field != "type":
                        block[field] = block.get(field, "") + text
            case "message_delta":
                message |= event["delta"]
                message["usage"] |= event["usage"]
            case "error":
                raise AssertionError(event)
    return message


def compared(message: dict) -> dict:
    """What has to be the same: ids are random, and what is cached depends on what was asked before."""
    blocks = [{name: value for name, value in block.items() if name != "id"} for block in message["content"]]
    usage = message["usage"]
    cached = usage.get("cache_read_input_tokens", 0) + usage.get("cache_creation_input_tokens", 0)
    return {
        "content": blocks,
        "stop": (message["stop_reason"], message.get("stop_sequence")),
        "tokens": (usage["input_tokens"] + cached, usage["output_tokens"]),
    }


def same(name: str) -> Callable[[Trial], str]:
    """The check of one request, whole and streamed."""

    def check(trial: Trial) -> str:
        for stream in (False, True):
            ours, theirs = (compared(message) for message in trial.answers(REQUESTS[name], stream))
            assert ours == theirs, f"{ours} is not {theirs}"
        return f"{ours['stop'][0]}, {ours['tokens'][0]} and {ours['tokens'][1]} tokens"

    check.__name__ = name
    return check


def a_given_beginning_is_continued(trial: Trial) -> str:
    begun = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The best"}]
    ours, theirs = trial.answers({"messages": begun}, False)
    (ours_in, _), (theirs_in, _) = compared(ours)["tokens"], compared(theirs)["tokens"]
    # vLLM's own translation ends the turn, and begins another one.
    assert ours_in < theirs_in, f"{ours_in} tokens, {theirs_in} by vLLM's own"
    return f"{ours_in} tokens of the prompt, {theirs_in} by vLLM's own"


def main() -> int:
    command, home, logs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with ExitStack() as stack:
        more = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
        engine = Vllm(0, home, logs, adapter=False, more=more, name="translation")
        stack.callback(engine.kill)
        wait_for(lambda: healthy(engine), f"{engine.url} is healthy", VLLM_READY_SECONDS)
        checks = [*map(same, REQUESTS), a_given_beginning_is_continued]
        return report(checks, Trial(command, engine))


if __name__ == "__main__":
    sys.exit(main())
