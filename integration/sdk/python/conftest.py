"""Fixtures: the fleet, healthy before each test, and clients that do not retry unless a test wants it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fleet import Fleet, from_environment
from openai import OpenAI


@pytest.fixture(scope="session")
def whole_fleet() -> Fleet:
    return from_environment()


@pytest.fixture
def fleet(whole_fleet: Fleet) -> Iterator[Fleet]:
    yield whole_fleet
    for engine in whole_fleet.engines:
        engine.clear_faults()


@pytest.fixture
def client(fleet: Fleet) -> Iterator[OpenAI]:
    with OpenAI(base_url=fleet.base_url, api_key="unused", max_retries=0, timeout=30) as client:
        yield client
