"""Errors: which exception a client sees, with which code, and what retries hide."""

from __future__ import annotations

import openai
import pytest
from fleet import Fleet
from openai import OpenAI

HELLO = [{"role": "user", "content": "hello"}]


def test_an_unknown_model_is_not_found_and_the_nearest_is_named(client: OpenAI, fleet: Fleet) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model=fleet.model + "x", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert fleet.model in caught.value.message


def test_an_unknown_model_is_not_retrieved(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no/such-model")
    assert caught.value.code == "model_not_found"


def test_an_unknown_response_id_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve("resp_unknown")
    assert caught.value.code == "response_not_found"


def test_an_engines_own_refusal_passes_through(client: OpenAI, fleet: Fleet) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=fleet.model, messages=HELLO, max_tokens=-1)
    assert caught.value.param == "max_tokens"
    assert "max_tokens must be at least 1, got -1" in caught.value.message
    assert caught.value.type == "BadRequestError"


def test_a_body_of_the_wrong_shape_is_a_bad_request(client: OpenAI, fleet: Fleet) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=fleet.model, messages="not a list")  # type: ignore[call-overload]


def test_a_body_that_is_no_json_is_a_bad_request(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", content=b'{"model": ', cast_to=object)
    assert caught.value.type == "invalid_request_error"


def test_a_wrong_key_is_refused_by_the_engine(fleet: Fleet) -> None:
    with OpenAI(base_url=f"{fleet.keyed_url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.chat.completions.create(model=fleet.model, messages=HELLO)
    assert caught.value.status_code == 401


def test_the_right_key_reaches_the_engine(fleet: Fleet) -> None:
    with OpenAI(base_url=f"{fleet.keyed_url}/v1", api_key=fleet.key, max_retries=0) as client:
        answer = client.chat.completions.create(model=fleet.model, messages=HELLO, max_tokens=3)
    assert answer.usage and answer.usage.completion_tokens == 3


@pytest.mark.parametrize("status", [429, 503])
def test_one_busy_engine_is_not_seen_by_clients(client: OpenAI, fleet: Fleet, status: int) -> None:
    busy, *_others = fleet.engines
    busy.fault("status", code=status, retry_after=7)
    before = busy.answered()
    for number in range(8):
        messages = [{"role": "user", "content": f"{status}, question {number}"}]
        answer = client.chat.completions.create(model=fleet.model, messages=messages, max_tokens=2)
        assert answer.usage and answer.usage.completion_tokens == 2
    assert busy.answered() == before


@pytest.mark.parametrize("fault", ["reset_before_headers", "close_before_headers"])
def test_an_engine_that_breaks_off_is_not_seen_by_clients(client: OpenAI, fleet: Fleet, fault: str) -> None:
    fleet.engines[0].fault(fault, requests=1)
    for number in range(4):
        messages = [{"role": "user", "content": f"{fault}, question {number}"}]
        assert client.chat.completions.create(model=fleet.model, messages=messages, max_tokens=2).usage


@pytest.mark.parametrize(("status", "raised"), [(429, openai.RateLimitError), (503, openai.InternalServerError)])
def test_when_all_are_busy_the_client_learns_when_to_come_back(
    client: OpenAI, fleet: Fleet, status: int, raised: type[openai.APIStatusError]
) -> None:
    for engine in fleet.engines:
        engine.fault("status", code=status, retry_after=3)
    with pytest.raises(raised) as caught:
        client.chat.completions.create(model=fleet.model, messages=HELLO, max_tokens=2)
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "3"


def test_a_client_that_retries_outlasts_busy_engines(client: OpenAI, fleet: Fleet) -> None:
    for engine in fleet.engines:
        engine.fault("status", code=503, retry_after=1, requests=1)
    patient = client.with_options(max_retries=4)
    answer = patient.chat.completions.with_raw_response.create(model=fleet.model, messages=HELLO, max_tokens=2)
    assert answer.retries_taken >= 1
    assert answer.parse().usage


def test_a_request_id_is_kept_and_returned(client: OpenAI, fleet: Fleet) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=fleet.model, messages=HELLO, max_tokens=2, extra_headers={"X-Request-Id": "order-66"}
    )
    assert answer.headers["x-request-id"] == "order-66"
    # The engine makes its answer's id of the request's.
    assert answer.parse().id == "chatcmpl-order-66"


def test_a_request_without_an_id_gets_one_of_its_own(client: OpenAI, fleet: Fleet) -> None:
    create = client.chat.completions.create
    ids = {create(model=fleet.model, messages=HELLO, max_tokens=1)._request_id for _ in range(2)}
    assert len(ids) == 2 and None not in ids


def test_errors_carry_the_request_id(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="none", messages=HELLO, extra_headers={"X-Request-Id": "order-67"})
    assert caught.value.request_id == "order-67"
