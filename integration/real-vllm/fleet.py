"""Prefill and decode servers with NIXL between them, the router in front, and what is asked of them in every check."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
from questions import Answer, Question, Way, ask, require_served
from servers import VLLM_READY_SECONDS, Hermes, Vllm, free_port, handing_over, healthy, wait_for

# vLLM's `kv_lease_duration`: KV blocks that no decode server takes over are freed after it.
LEASE_SECONDS = 30.0
# What asks a prefill server for a handover, by vLLM's documentation.
REMOTE_DECODE = {"do_remote_decode": True, "do_remote_prefill": False} | dict.fromkeys(
    ("remote_engine_id", "remote_block_ids", "remote_host", "remote_port")
)
# Tool calls; a model that chooses by chance would fill the arguments with spaces.
TOOLS = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
TOOLS += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']


@dataclass(frozen=True)
class Place:
    """Where a server is, before and after it was killed."""

    name: str
    role: str
    core: int
    port: int
    side_channel: int


def prefill_place(number: int) -> Place:
    return Place(f"prefill-{number}", "kv_producer", 0, free_port(), free_port())


def decode_place(number: int) -> Place:
    return Place(f"decode-{number}", "kv_consumer", 1, free_port(), free_port())


class Member(Vllm):
    """One of the servers."""

    def __init__(self, place: Place, home: Path, logs: Path) -> None:
        arguments, variables = handing_over(place.role, place.side_channel)
        super().__init__(place.core, home, logs, True, arguments + TOOLS, place.port, variables, place.name)
        self.place = place

    def finished(self) -> float:
        return self.metric("vllm:request_success_total")

    def prompt_tokens(self, source: str) -> float:
        return self.metric("vllm:prompt_tokens_by_source_total", f'source="{source}"')

    def expired(self) -> float:
        """Leases that ended before a decode server had read the blocks."""
        return self.metric("vllm:nixl_num_kv_expired_reqs_total")

    def is_idle(self) -> bool:
        """It has no request, and no KV block that is in use: leased ones are."""
        names = ("vllm:kv_cache_usage_perc", "vllm:num_requests_running", "vllm:num_requests_waiting")
        return all(self.metric(name) == 0 for name in names)

    def empty_cache(self) -> None:
        httpx.post(f"{self.url}/reset_prefix_cache", timeout=60).raise_for_status()


class Fleet:
    """A prefill and a decode server at first, and a router that pairs them for every prompt."""

    def __init__(self, binary: str, home: Path, logs: Path, stack: ExitStack) -> None:
        self.home, self.logs, self.stack = home, logs, stack
        self.prefills = [self.begin(prefill_place(0))]
        self.decodes = [self.begin(decode_place(0))]
        for server in self.alive():
            self.await_health(server)
        self.configure()
        self.hermes = Hermes(binary, [], logs, self.config)
        stack.callback(self.hermes.kill)

    @property
    def prefill(self) -> Member:
        return self.prefills[0]

    @property
    def decode(self) -> Member:
        return self.decodes[0]

    @property
    def config(self) -> Path:
        return self.logs / "pd.yaml"

    def add(self, servers: list[Member], place: Place) -> Member:
        """One more, that the router finds in its configuration once it is ready."""
        server = self.begin(place)
        self.await_health(server)
        servers.append(server)
        self.configure()
        return server

    def remove(self, server: Member) -> None:
        """The router loses it; it still runs."""
        for servers in (self.prefills, self.decodes):
            servers[:] = [known for known in servers if known is not server]
        self.configure()

    def configure(self) -> None:
        """Writes which servers there are; a router that runs reads it."""
        urls = {"prefill": self.prefills, "decode": self.decodes}
        lists = "".join(f"    {role}: {[server.url for server in servers]}\n" for role, servers in urls.items())
        rules = f"  disaggregation:\n    dialect: vllm-nixl\n    minUncachedTokens: 0\n{lists}"
        written = self.config.with_suffix(".new")
        # By costs, servers that are fast enough would serve some alone.
        written.write_text(f"pools:\n- name: chat\n  strategy: least-request\n{rules}")
        written.rename(self.config)

    def begin(self, place: Place) -> Member:
        server = Member(place, self.home, self.logs)
        self.stack.callback(server.kill)
        return server

    def await_health(self, server: Member) -> float:
        return wait_for(lambda: healthy(server), f"{server.url} is healthy", VLLM_READY_SECONDS)

    def restart(self, dead: Member) -> float:
        """Another one in its place; how many seconds it needed."""
        server = self.begin(dead.place)
        for servers in (self.prefills, self.decodes):
            servers[:] = [server if known is dead else known for known in servers]
        return self.await_health(server)

    def alive(self) -> list[Member]:
        return [server for server in (*self.prefills, *self.decodes) if server.process.poll() is None]

    def is_idle(self) -> bool:
        return all(server.is_idle() for server in self.alive())

    def empty_caches(self) -> None:
        wait_for(self.is_idle, "no server has a request", LEASE_SECONDS + 10)
        for server in self.alive():
            server.empty_cache()

    def aggregated(self, asked: list[Question], ways: list[Way] | None = None) -> list[Answer]:
        """What one server answers, with empty caches afterwards."""
        answers = [way(self.prefill.url, question) for way, question in zip(ways or [ask] * len(asked), asked)]
        self.empty_caches()
        return answers

    def pairs(self, outcome: str = "answered") -> float:
        return self.hermes.metric("hermes_pairs_total", f'outcome="{outcome}"')

    def in_flight(self) -> float:
        return self.hermes.metric("hermes_requests_in_flight")

    def roles(self) -> list[str]:
        """Those that the router's snapshot has."""
        pools = self.hermes.snapshot()["snapshot"]["pools"]
        return sorted(endpoint["role"] for pool in pools for endpoint in pool["endpoints"])


def by_hand(fleet: Fleet, question: Question) -> tuple[Answer, Answer]:
    """Both legs as vLLM documents them, without a router."""
    limit = "max_output_tokens" if question.path.endswith("responses") else "max_tokens"
    body = {**question.body, "stream": False, limit: 1, "kv_transfer_params": REMOTE_DECODE}
    begun = time.monotonic()
    reply = httpx.post(fleet.prefill.url + question.path, json=body, timeout=120)
    require_served(reply.status_code, reply.text)
    first = reply.json()
    prefilled = Answer("", first["usage"], time.monotonic() - begun)
    handed = {**question.body, "kv_transfer_params": first["kv_transfer_params"]}
    return prefilled, ask(fleet.decode.url, Question(question.kind, question.path, handed))
