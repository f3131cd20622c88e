"""Each SDK reads what is translated for it, and what it sends becomes what the other's types allow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic
from anthropic.types.message_create_params import MessageCreateParamsBase
from openai import OpenAI
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from pydantic import TypeAdapter
from scripted import Script, recorded, scripted, translate

ASK: list[Any] = [{"role": "user", "content": "What's the weather?"}]
# Fields that the types of newer SDKs do not have, and older models and engines do.
OLDER = {"temperature", "top_p", "top_k", "stream", "max_tokens"}


@pytest.fixture
def server() -> Iterator[Script]:
    with scripted() as script:
        yield script


@pytest.fixture
def chats(server: Script) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0, timeout=30) as client:
        yield client


@pytest.fixture
def messages(server: Script) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="unused", max_retries=0, timeout=30) as client:
        yield client


def assert_allowed(params: Any, body: dict[str, Any]) -> None:
    """The types of an SDK allow this body."""
    unknown = set(body) - set(params.__annotations__) - OLDER
    assert not unknown, unknown

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for member in value.values():
                walk(member)
        elif hasattr(value, "__iter__") and not isinstance(value, str | bytes):
            for item in value:
                walk(item)

    # Its lists are validated by it while they are walked through.
    adapter = TypeAdapter(params)
    walk(adapter.validate_python(body))


def test_openai_reads_a_translated_stream_of_tools(chats: OpenAI, server: Script) -> None:
    server.stream(translate("chat-stream", recorded("chat_stream_tools")))
    with chats.chat.completions.stream(model="m", messages=ASK) as stream:
        answer = stream.get_final_completion()
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Okay, let's check:")
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or []]
    assert calls == [("get_weather", {"location": "San Francisco, CA"}), ("now", {})]
    assert answer.usage and answer.usage.prompt_tokens == 600 and answer.usage.prompt_tokens_details
    assert answer.usage.prompt_tokens_details.cached_tokens == 128


def test_openai_gets_signed_thinking_that_can_be_sent_back(chats: OpenAI, server: Script) -> None:
    server.stream(translate("chat-stream", recorded("chat_stream_thinking")))
    with chats.chat.completions.stream(model="m", messages=ASK) as stream:
        said = stream.get_final_completion().choices[0].message.model_dump()
    assert said["reasoning_content"].endswith("1071 = 2 × 462 + 147")
    server.whole(translate("chat-answer", recorded("chat_answer_tools")))
    again = [*ASK, {"role": "assistant", **said}, {"role": "user", "content": "Sure?"}]
    chats.chat.completions.create(model="m", messages=again)
    body = json.loads(translate("chat-request", json.dumps(server.requests[-1]).encode()))
    thinking, redacted, text = body["messages"][1]["content"]
    assert thinking["thinking"] == said["reasoning_content"] and thinking["signature"].startswith("EqQBCgIY")
    assert redacted == {"type": "redacted_thinking", "data": "EmwKAhgB"}
    assert text == {"type": "text", "text": "The greatest common divisor is 21."}
    assert_allowed(MessageCreateParamsBase, body)


def test_openai_reads_a_translated_answer_and_errors(chats: OpenAI, server: Script) -> None:
    server.whole(translate("chat-answer", recorded("chat_answer_tools")))
    answer = chats.chat.completions.create(model="m", messages=ASK)
    assert answer.choices[0].finish_reason == "tool_calls" and len(answer.choices[0].message.tool_calls or []) == 2
    server.stream(translate("chat-stream", recorded("chat_stream_error")))
    with pytest.raises(openai.APIError, match="Overloaded"):
        list(chats.chat.completions.create(model="m", messages=ASK, stream=True))
    whole = translate("chat-stream", recorded("chat_stream_tools")[:900])
    server.stream(whole)
    with pytest.raises(openai.APIError, match="ended before it was complete"):
        list(chats.chat.completions.create(model="m", messages=ASK, stream=True))


def test_anthropic_reads_a_translated_stream_of_mixed_calls(messages: Anthropic, server: Script) -> None:
    server.stream(translate("messages-stream", recorded("messages_stream_mixed")))
    with messages.messages.stream(model="m", max_tokens=99, messages=ASK) as stream:
        answer = stream.get_final_message()
    kinds = [block.type for block in answer.content]
    assert kinds == ["thinking", "text", "tool_use", "tool_use", "text"]
    assert [block.input for block in answer.content if block.type == "tool_use"] == [{"at": 1}, {"q": "}x"}]
    assert [block.text for block in answer.content if block.type == "text"] == ["Let me see.", "Between."]
    assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("tool_use", 15, 20)
    assert answer.usage.cache_read_input_tokens == 80
    again = [*ASK, answer.to_param(), {"role": "user", "content": "Go on."}]
    server.whole(translate("messages-answer", recorded("messages_answer_tools")))
    messages.messages.create(model="m", max_tokens=99, messages=again)
    body = json.loads(translate("messages-request", json.dumps(server.requests[-1]).encode()))
    assert body["messages"][1]["reasoning_content"] == "Both \U0001f600"
    assert len(body["messages"][1]["tool_calls"]) == 2


def test_anthropic_reads_a_translated_answer_and_errors(messages: Anthropic, server: Script) -> None:
    server.whole(translate("messages-answer", recorded("messages_answer_tools")))
    answer = messages.messages.create(model="m", max_tokens=99, messages=ASK)
    assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert answer.stop_reason == "tool_use" and answer.usage.cache_read_input_tokens == 64
    for name, text in [("messages_stream_error", "EngineCore"), ("messages_stream_early", "ended before")]:
        server.stream(translate("messages-stream", recorded(name)))
        with pytest.raises(anthropic.APIStatusError, match=text):
            with messages.messages.stream(model="m", max_tokens=99, messages=ASK) as stream:
                stream.get_final_message()


def test_what_openai_sends_is_allowed_by_anthropics_types(chats: OpenAI, server: Script) -> None:
    server.whole(translate("chat-answer", recorded("chat_answer_tools")))
    for name in ["chat_request_weather", "chat_request_images", "chat_request_structured"]:
        request = json.loads(recorded(name))
        request.pop("stream", None)
        request.pop("stream_options", None)
        chats.chat.completions.create(**request)
        body = json.loads(translate("chat-request", json.dumps(server.requests[-1]).encode()))
        assert "error" not in body, body
        assert_allowed(MessageCreateParamsBase, body)


def test_what_anthropic_sends_is_allowed_by_openais_types(messages: Anthropic, server: Script) -> None:
    server.whole(translate("messages-answer", recorded("messages_answer_tools")))
    request = json.loads(recorded("messages_request_openai"))
    request.pop("stream")
    messages.messages.create(**request)
    body = json.loads(translate("messages-request-openai", json.dumps(server.requests[-1]).encode()))
    assert "error" not in body, body
    assert_allowed(CompletionCreateParamsBase, body)


def test_refusals_have_the_shapes_that_the_sdks_read(chats: OpenAI, messages: Anthropic, server: Script) -> None:
    refused = json.dumps({"model": "m", "messages": ASK, "n": 2}).encode()
    server.whole(translate("chat-request", refused), status=400)
    with pytest.raises(openai.BadRequestError) as bad:
        chats.chat.completions.create(model="m", messages=ASK, n=2)
    assert bad.value.param == "n"
    refused = json.dumps({"model": "m", "messages": ASK, "max_tokens": 9, "container": "c"}).encode()
    server.whole(translate("messages-request", refused), status=400)
    with pytest.raises(anthropic.BadRequestError, match="container"):
        messages.messages.create(model="m", max_tokens=9, messages=ASK)
