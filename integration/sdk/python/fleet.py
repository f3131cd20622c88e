"""The running fleet, as the tests see it: a router, the simulated engines behind it, and their switches for faults."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class Engine:
    """One simulated engine behind the router."""

    url: str

    def fault(self, kind: str, **fields: object) -> None:
        """Orders a fault; `requests` limits how many requests it strikes."""
        httpx.post(f"{self.url}/sim/faults", json={"kind": kind, **fields}).raise_for_status()

    def clear_faults(self) -> None:
        httpx.delete(f"{self.url}/sim/faults").raise_for_status()

    def metric(self, name: str) -> float:
        """The sum of a metric's samples over all their labels."""
        lines = httpx.get(f"{self.url}/metrics").raise_for_status().text.splitlines()
        samples = [line for line in lines if line.startswith((f"{name}{{", f"{name} "))]
        assert samples, f"{self.url} exposes no {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in samples)

    def running(self) -> float:
        return self.metric("vllm:num_requests_running")

    def answered(self) -> float:
        return self.metric("vllm:request_success_total")


@dataclass(frozen=True)
class Fleet:
    """A router and its engines."""

    url: str
    engines: tuple[Engine, ...]
    model: str
    adapter: str
    """A name that the router rewrites to the adapter's."""
    rewritten: str
    """A router whose engines ask for `key`."""
    keyed_url: str
    key: str

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def running(self) -> float:
        return sum(engine.running() for engine in self.engines)

    def answered(self) -> list[float]:
        """What each engine has answered so far."""
        return [engine.answered() for engine in self.engines]


def from_environment() -> Fleet:
    """The fleet that `run` has started."""
    names = ("ROUTER", "ENGINES", "MODEL", "ADAPTER", "REWRITTEN", "KEYED", "KEY")
    url, engines, model, adapter, rewritten, keyed_url, key = (os.environ[f"HERMES_SDK_{name}"] for name in names)
    return Fleet(url, tuple(map(Engine, engines.split(","))), model, adapter, rewritten, keyed_url, key)


def eventually(holds: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Waits until something holds, and fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
