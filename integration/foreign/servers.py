"""The processes of a comparison: engines, and a router in front of them. All listen on 127.0.0.1 and end with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MODEL = "sim"
READY_SECONDS = 60.0


class Failed(Exception):
    """The comparison cannot go on; the text says why."""


@dataclass(frozen=True)
class Programs:
    """Where everything is."""

    hermes: Path
    simulator: Path
    peers: Path
    logs: Path


@dataclass(frozen=True)
class Engine:
    """What one engine is, of any make. Times are those of a request alone on it."""

    cache_tokens: int = 65_536
    block_tokens: int = 16
    prompt_tokens_per_second: int = 8_000
    overhead_ms: int = 8
    token_ms: int = 10
    # Of engines that share their time: most requests at once, and how many times slower it is with that many.
    most_running: int = 16
    slowdown: float = 3.0


class Server:
    """A child process in a process group of its own, so that its children end with it."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> None:
        """Ends the whole group: gently, and after five seconds at once."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                os.killpg(self.process.pid, number)
                try:
                    self.process.wait(timeout=5)
                except subprocess.TimeoutExpired:
                    continue
            return

    def wait_until(self, what: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            if self.process.poll() is not None:
                raise Failed(f"{what}: it ended with status {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within {READY_SECONDS:.0f} s:\n{self.tail()}")
            time.sleep(0.1)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def get(request: str | urllib.request.Request) -> str | None:
    """What an address or a request is answered with, if with success."""
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return response.read().decode()
    except (urllib.error.URLError, OSError):
        return None


def lists_model(url: str) -> bool:
    page = get(f"{url}/v1/models")
    return page is not None and any(entry["id"] == MODEL for entry in json.loads(page).get("data") or [])


def answers(url: str) -> bool:
    """Whether a chat is answered; what routers list and how they report that they are ready differs."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "ready?"}], "max_tokens": 1}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    return get(request) is not None


# === Engines ===


def llm_d_engine(programs: Programs, engine: Engine, port: int) -> list[str]:
    """llm-d's simulator: running requests share its time, and it has no queue while fewer run than may."""
    command = [str(programs.simulator), "--port", str(port), "--model", MODEL, "--max-model-len", "65536"]
    command += ["--enable-kvcache", "--kv-cache-size", str(engine.cache_tokens // engine.block_tokens)]
    command += ["--block-size", str(engine.block_tokens), "--max-num-seqs", str(engine.most_running)]
    command += ["--latency-calculator", "per-token", "--prefill-overhead", f"{engine.overhead_ms}ms"]
    command += ["--prefill-time-per-token", f"{1e6 / engine.prompt_tokens_per_second:.0f}us"]
    command += ["--inter-token-latency", f"{engine.token_ms}ms"]
    return command + ["--time-factor-under-load", str(engine.slowdown)]


def hermes_engine(programs: Programs, engine: Engine, port: int) -> list[str]:
    """Hermes' own: prompts are computed one after the other."""
    command = [str(programs.hermes), "engine", "--listen", f"127.0.0.1:{port}", "--model", MODEL]
    command += ["--blocks", str(engine.cache_tokens // engine.block_tokens), "--block-size", str(engine.block_tokens)]
    return command + ["--prefill-rate", str(engine.prompt_tokens_per_second)]


def sharing_engine(programs: Programs, engine: Engine, port: int) -> list[str]:
    """Hermes' own, as a machine whose running requests share its time."""
    command = [*hermes_engine(programs, engine, port), "--max-running", str(engine.most_running)]
    return [*command, "--shared-time", str(engine.slowdown)]


ENGINES = {"llm-d": llm_d_engine, "hermes": hermes_engine, "hermes-sharing": sharing_engine}


def start_engines(programs: Programs, kind: str, engine: Engine, count: int, started: Callable[[Server], None]) -> list[str]:
    """Starts `count` engines of a kind, and returns their addresses once they serve."""
    servers = []
    for number in range(count):
        port = free_port()
        log = programs.logs / f"engine-{number}.log"
        # The simulator names itself in its events by this variable, and does not start without it.
        server = Server(ENGINES[kind](programs, engine, port), log, {"POD_IP": "127.0.0.1", "HERMES_LOG": "warn"})
        started(server)
        servers.append((server, f"http://127.0.0.1:{port}"))
    for server, url in servers:
        server.wait_until(f"a {kind} engine serves", lambda url=url: lists_model(url))
    return [url for _, url in servers]


# === Routers ===


def hermes(strategy: str) -> Callable[[Programs, list[str], int], list[str]]:
    def command(programs: Programs, engines: list[str], port: int) -> list[str]:
        line = [str(programs.hermes), "serve", "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0"]
        return [*line, "--strategy", strategy, "--endpoint", ",".join(engines)]

    return command


def rust_router(name: str, subcommand: list[str], policy: str) -> Callable[[Programs, list[str], int], list[str]]:
    """SGLang's router, and vLLM's, which grew out of it."""

    def command(programs: Programs, engines: list[str], port: int) -> list[str]:
        line = [str(programs.peers / name), *subcommand, "--host", "127.0.0.1", "--port", str(port)]
        line += ["--policy", policy, "--prometheus-port", str(free_port()), "--log-level", "error"]
        return [*line, "--worker-urls", *engines]

    return command


ROUTERS = {
    "kv-aware": hermes("kv-aware"),
    "prefix-cache": hermes("prefix-cache"),
    "least-request": hermes("least-request"),
    "sglang-router": rust_router("sglang-router", ["launch"], "cache_aware"),
    "vllm-router": rust_router("vllm-router", [], "cache_aware"),
}


def start_router(programs: Programs, name: str, engines: list[str], started: Callable[[Server], None]) -> tuple[str, Server]:
    port = free_port()
    server = Server(ROUTERS[name](programs, engines, port), programs.logs / f"{name}.log", {"HERMES_LOG": "warn"})
    started(server)
    url = f"http://127.0.0.1:{port}"
    server.wait_until(f"{name} answers a chat", lambda: answers(url))
    return url, server
