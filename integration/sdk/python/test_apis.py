"""The other APIs: completions, embeddings, models, responses, and Anthropic's messages."""

from __future__ import annotations

import json

import httpx
import pytest
from fleet import Fleet
from openai import OpenAI


def test_a_completion_is_whole_or_streamed_alike(client: OpenAI, fleet: Fleet) -> None:
    whole = client.completions.create(model=fleet.model, prompt="Once upon a time", max_tokens=7)
    stream = client.completions.create(model=fleet.model, prompt="Once upon a time", max_tokens=7, stream=True)
    assert whole.object == "text_completion"
    assert whole.usage and whole.usage.completion_tokens == 7
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_each_input_is_embedded_by_its_text_alone(client: OpenAI, fleet: Fleet) -> None:
    texts = ["winged sandals", "a tortoise", "winged sandals"]
    answer = client.embeddings.create(model=fleet.model, input=texts, encoding_format="float")
    first, second, third = (item.embedding for item in answer.data)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert first == third != second
    # Without a format the client asks for base64 and decodes it.
    default = client.embeddings.create(model=fleet.model, input=texts[0])
    assert default.data[0].embedding == pytest.approx(first, abs=1e-6)


def test_models_are_listed_with_their_adapters(client: OpenAI, fleet: Fleet) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {fleet.model, fleet.adapter} <= models.keys()
    assert models[fleet.adapter].model_dump()["parent"] == fleet.model


def test_a_model_whose_name_has_a_slash_is_retrieved(client: OpenAI, fleet: Fleet) -> None:
    assert "/" in fleet.model
    assert client.models.retrieve(fleet.model).id == fleet.model
    plain = httpx.get(f"{fleet.base_url}/models/{fleet.model}").raise_for_status()
    assert plain.json()["id"] == fleet.model


def test_an_adapter_answers_under_its_own_name(client: OpenAI, fleet: Fleet) -> None:
    messages = [{"role": "user", "content": "hello"}]
    assert client.chat.completions.create(model=fleet.adapter, messages=messages, max_tokens=2).model == fleet.adapter


def test_a_response_has_text_and_usage(client: OpenAI, fleet: Fleet) -> None:
    response = client.responses.create(model=fleet.model, input="Who was Hermes?", max_output_tokens=10)
    assert response.id.startswith("resp_")
    assert response.output_text
    assert response.usage and response.usage.output_tokens == 10


def test_a_streamed_response_begins_grows_and_ends(client: OpenAI, fleet: Fleet) -> None:
    events = list(client.responses.create(model=fleet.model, input="Who?", max_output_tokens=6, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds.count("response.output_text.delta") == 6
    assert kinds[-1] in ("response.completed", "response.incomplete")
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].response.output_text == text


def test_a_conversation_stays_where_its_responses_are(client: OpenAI, fleet: Fleet) -> None:
    before = fleet.answered()
    previous = client.responses.create(model=fleet.model, input="First.", max_output_tokens=2).id
    for turn in range(5):
        answer = client.responses.create(
            model=fleet.model, input=f"Turn {turn}.", previous_response_id=previous, max_output_tokens=2
        )
        previous = answer.id
    share = [after - earlier for after, earlier in zip(fleet.answered(), before, strict=True)]
    assert sorted(share) == [0] * (len(share) - 1) + [6]


def test_anthropic_messages_are_whole_or_streamed_alike(fleet: Fleet) -> None:
    body = {"model": fleet.model, "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
    whole = httpx.post(f"{fleet.base_url}/messages", json=body).raise_for_status().json()
    assert (whole["type"], whole["role"], whole["usage"]["output_tokens"]) == ("message", "assistant", 5)
    with httpx.stream("POST", f"{fleet.base_url}/messages", json={**body, "stream": True}) as response:
        lines = [line for line in response.iter_lines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert (events[0]["type"], events[-1]["type"]) == ("message_start", "message_stop")
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert text == whole["content"][0]["text"]


def test_anthropic_errors_have_anthropics_shape(fleet: Fleet) -> None:
    body = {"model": "no-such-model", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
    answer = httpx.post(f"{fleet.base_url}/messages", json=body)
    assert answer.status_code == 404
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "not_found_error"
