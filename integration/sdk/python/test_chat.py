"""Chat completions: whole, streamed, in parallel, and with the original's prefix."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from fleet import Fleet, eventually
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion

HELLO = [{"role": "user", "content": "What do messengers do?"}]


def test_an_answer_is_complete_and_counts_its_tokens(client: OpenAI, fleet: Fleet) -> None:
    answer = client.chat.completions.create(model=fleet.model, messages=HELLO, max_tokens=8)
    assert answer.model == fleet.model
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage and answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_a_streamed_answer_has_the_text_of_a_whole_one(client: OpenAI, fleet: Fleet) -> None:
    whole = client.chat.completions.create(model=fleet.model, messages=HELLO, max_tokens=12)
    stream = client.chat.completions.create(model=fleet.model, messages=HELLO, max_tokens=12, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) == 12


def test_a_rewritten_model_comes_back_as_it_was_asked_for(client: OpenAI, fleet: Fleet) -> None:
    create = client.chat.completions.create
    target = create(model=fleet.adapter, messages=HELLO, max_tokens=8)
    whole = create(model=fleet.rewritten, messages=HELLO, max_tokens=8)
    chunks = list(create(model=fleet.rewritten, messages=HELLO, max_tokens=8, stream=True))
    assert whole.model == fleet.rewritten
    assert {chunk.model for chunk in chunks} == {fleet.rewritten}
    assert whole.choices[0].message.content == target.choices[0].message.content
    assert fleet.rewritten in [model.id for model in client.models.list()]


def test_chunks_arrive_while_the_engine_still_generates(client: OpenAI, fleet: Fleet) -> None:
    with client.chat.completions.create(model=fleet.model, messages=HELLO, max_tokens=200, stream=True) as stream:
        first = next(chunk for chunk in stream if chunk.choices[0].delta.content)
        assert first.choices[0].finish_reason is None
        assert fleet.running() == 1
        last = list(stream)[-1]
    assert last.choices[0].finish_reason == "length"


def test_usage_comes_last_when_it_is_asked_for(client: OpenAI, fleet: Fleet) -> None:
    chunks = list(
        client.chat.completions.create(
            model=fleet.model, messages=HELLO, max_tokens=5, stream=True, stream_options={"include_usage": True}
        )
    )
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 5


def test_a_stream_ends_with_done(fleet: Fleet) -> None:
    body = {"model": fleet.model, "messages": HELLO, "max_tokens": 3, "stream": True}
    with httpx.stream("POST", f"{fleet.base_url}/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    assert events[-1] == "[DONE]"
    assert all(json.loads(event)["object"] == "chat.completion.chunk" for event in events[:-1])


def test_fifty_clients_at_once_are_served_by_all_engines(fleet: Fleet) -> None:
    async def ask(client: AsyncOpenAI, number: int) -> ChatCompletion:
        messages = [{"role": "user", "content": f"Question {number}: " + f"what is {number}? " * 40}]
        return await client.chat.completions.create(model=fleet.model, messages=messages, max_tokens=16)

    async def ask_all() -> list[ChatCompletion]:
        async with AsyncOpenAI(base_url=fleet.base_url, api_key="unused", max_retries=0, timeout=60) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(50)))

    before = fleet.answered()
    answers = asyncio.run(ask_all())
    assert [answer.usage.completion_tokens for answer in answers if answer.usage] == [16] * 50
    assert len({answer.id for answer in answers}) == 50
    share = [after - earlier for after, earlier in zip(fleet.answered(), before, strict=True)]
    assert sum(share) == 50
    assert min(share) > 0, f"an engine was left out: {share}"


def test_an_async_stream_is_read_to_its_end(fleet: Fleet) -> None:
    async def pieces() -> list[str]:
        async with AsyncOpenAI(base_url=fleet.base_url, api_key="unused", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model=fleet.model, messages=HELLO, max_tokens=9, stream=True
            )
            return [chunk.choices[0].delta.content or "" async for chunk in stream]

    assert len([piece for piece in asyncio.run(pieces()) if piece]) == 9


@pytest.mark.parametrize("prefix", ["/rest/hermes-router/v1beta1/v1", "/v1"])
def test_both_entry_paths_serve(fleet: Fleet, prefix: str) -> None:
    with OpenAI(base_url=fleet.url + prefix, api_key="unused", max_retries=0) as client:
        answer = client.chat.completions.create(model=fleet.model, messages=HELLO, max_tokens=4)
        assert answer.usage and answer.usage.completion_tokens == 4
        assert fleet.model in [model.id for model in client.models.list()]


def test_a_client_that_leaves_frees_its_engine(client: OpenAI, fleet: Fleet) -> None:
    stream = client.chat.completions.create(model=fleet.model, messages=HELLO, max_tokens=20_000, stream=True)
    next(chunk for chunk in stream if chunk.choices[0].delta.content)
    assert fleet.running() == 1
    stream.close()
    eventually(lambda: fleet.running() == 0, "the engine stopped generating")
