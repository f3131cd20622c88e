"""Prefill and decode engines behind routers, of which one side was made elsewhere.

Hermes in front of llm-d's simulator, which speaks NIXL's parameters with other types than vLLM; and the routers of
vLLM and SGLang in front of our simulated engines, which count what would break a real one. If engines that Hermes is tested
with serve the engines' own routers without a complaint, they are as strict as they should be, and not stricter.
With --sidecar also Hermes in front of llm-d's sidecars (`cmd/pd-sidecar` of llm-d-router), which send the legs by
themselves to our engines.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from servers import MODEL, Engine, Failed, Programs, Server, answers, free_port, get, lists_model, llm_d_engine

REQUESTS, RATE = 24, 6.0
COUNT = 2


@dataclass
class Fleet:
    """Prefill and decode engines by their addresses, and the ports at which prefill engines are found."""

    prefill: list[str] = field(default_factory=list)
    decode: list[str] = field(default_factory=list)
    side_channels: list[int] = field(default_factory=list)


# === Engines ===


def start(programs: Programs, name: str, command: list[str], started: Callable[[Server], None]) -> Server:
    server = Server(command, programs.logs / f"{name}.log", {"POD_IP": "127.0.0.1", "HERMES_LOG": "warn"})
    started(server)
    return server


def llm_d_fleet(programs: Programs, started: Callable[[Server], None]) -> Fleet:
    """llm-d's simulators: what they do is up to the request."""
    fleet, servers = Fleet(), []
    for number in range(2 * COUNT):
        port = free_port()
        servers.append(start(programs, f"llm-d-pair-{number}", llm_d_engine(programs, Engine(), port), started))
        (fleet.prefill if number < COUNT else fleet.decode).append(f"http://127.0.0.1:{port}")
    return served(fleet, servers)


def hermes_fleet(protocol: str) -> Callable[[Programs, Callable[[Server], None]], Fleet]:
    """Our simulated engines of this protocol."""

    def begin(programs: Programs, started: Callable[[Server], None]) -> Fleet:
        fleet, servers = Fleet(), []
        for number in range(2 * COUNT):
            port, side_channel = free_port(), free_port()
            role = "prefill" if number < COUNT else "decode"
            command = [str(programs.hermes), "engine", "--listen", f"127.0.0.1:{port}", "--role", role]
            command += ["--protocol", protocol, "--side-channel-port", str(side_channel)]
            servers.append(start(programs, f"{protocol}-{number}", command, started))
            (fleet.prefill if role == "prefill" else fleet.decode).append(f"http://127.0.0.1:{port}")
            if role == "prefill":
                fleet.side_channels.append(side_channel)
        return served(fleet, servers)

    return begin


def served(fleet: Fleet, servers: list[Server]) -> Fleet:
    for server, url in zip(servers, fleet.prefill + fleet.decode, strict=True):
        server.wait_until("an engine serves", lambda url=url: lists_model(url))
    return fleet


# === Routers ===


def hermes(dialect: str) -> Callable[[Programs, Fleet, int], list[str]]:
    def command(programs: Programs, fleet: Fleet, port: int) -> list[str]:
        config = programs.logs / f"{dialect}.yaml"
        pairs = {"dialect": dialect, "minUncachedTokens": 0, "prefill": fleet.prefill, "decode": fleet.decode}
        # By costs, engines that are fast enough would serve some alone.
        pool = {"name": "chat", "strategy": "least-request", "disaggregation": pairs}
        config.write_text(json.dumps({"pools": [pool]}))
        line = [str(programs.hermes), "serve", "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0"]
        return [*line, "--config", str(config)]

    return command


def peer(name: str, *flags: str) -> Callable[[Programs, Fleet, int], list[str]]:
    """SGLang's router, or vLLM's, which grew out of it."""

    def command(programs: Programs, fleet: Fleet, port: int) -> list[str]:
        line = [str(programs.peers / name), *flags, "--host", "127.0.0.1", "--port", str(port)]
        line += ["--policy", "round_robin", "--prometheus-port", str(free_port()), "--log-level", "error"]
        for url, side_channel in zip(fleet.prefill, fleet.side_channels, strict=True):
            line += ["--prefill", url, str(side_channel)]
        for url in fleet.decode:
            line += ["--decode", url]
        return line

    return command


def sidecar_fleet(sidecar: Path) -> Callable[[Programs, Callable[[Server], None]], Fleet]:
    """Our NIXL engines, with llm-d's sidecar in front of each decode engine."""

    def begin(programs: Programs, started: Callable[[Server], None]) -> Fleet:
        fleet = hermes_fleet("vllm-nixl")(programs, started)
        servers, ports = [], [free_port() for _ in fleet.decode]
        for number, (url, port) in enumerate(zip(fleet.decode, ports, strict=True)):
            command = [str(sidecar), "--port", str(port), "--model-server-port", url.rsplit(":", 1)[1]]
            command += ["--kv-connector", "nixlv2", "--secure-proxy=false"]
            servers.append(start(programs, f"sidecar-{number}", command, started))
        fleet.decode = [f"http://127.0.0.1:{port}" for port in ports]
        for server, url in zip(servers, fleet.decode, strict=True):
            server.wait_until("a sidecar serves", lambda url=url: lists_model(url))
        return fleet

    return begin


# === A trial ===


def split_at_llm_d(fleet: Fleet) -> tuple[int, dict]:
    """Prefill legs, by the reason that llm-d's simulator ends them with."""
    pages = [get(f"{url}/metrics") or "" for url in fleet.prefill]
    lines = [line for page in pages for line in page.splitlines() if 'finish_reason="remote_decode"' in line]
    legs = [line for line in lines if line.startswith("vllm:request_success_total")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in legs)), {}


def split_at_hermes(fleet: Fleet) -> tuple[int, dict]:
    """Prompts that were handed over, and what broke the protocol."""
    states = [json.loads(get(f"{url}/sim/pairs") or "{}") for url in fleet.prefill + fleet.decode]
    violations: dict[str, int] = {}
    for state in states:
        # A sidecar has no such page; its engine's violations are seen as failed requests.
        for kind, count in state.get("violations", {}).items():
            violations[kind] = violations.get(kind, 0) + count
    return sum(state["handoffs"]["taken"] for state in states if "handoffs" in state), violations


def load(programs: Programs, target: str) -> dict:
    command = [str(programs.hermes), "load", "--target", target, "--model", MODEL, "--workload", "conversation", "--json"]
    options = {"users": 6, "rounds": 4, "rate": RATE, "history-tokens": 1_000, "tokens": 10, "count": REQUESTS}
    for name, value in {**options, "duration": REQUESTS / RATE * 2 + 10}.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    if not done.stdout:
        raise Failed(f"hermes load: {done.stderr}")
    return json.loads(done.stdout)


def trial(programs: Programs, name: str, fleet: Callable, router: Callable, split_at: Callable) -> bool:
    """Whether a router serves chats by pairs of these engines: all of them answered, most split, nothing broken."""
    with ExitStack() as stack:
        started = lambda server: stack.callback(server.stop)  # noqa: E731
        engines = fleet(programs, started)
        port = free_port()
        server = start(programs, f"{name.split()[0]}-pairs", router(programs, engines, port), started)
        url = f"http://127.0.0.1:{port}"
        server.wait_until(f"{name} answers a chat", lambda: answers(url))
        report = load(programs, url)
        split, violations = split_at(engines)
    holds = report["ok"] == report["requests"] == REQUESTS and split >= REQUESTS * 0.8 and not violations
    print(f"{name}: {report['ok']} of {report['requests']} answered, {split} split, violations {violations or 'none'}"
          f"{'' if holds else '  FAILED ' + json.dumps(report['errors'])}", flush=True)
    return holds


def main() -> int:
    parser = argparse.ArgumentParser(prog="integration/foreign/run pairs", description=__doc__.splitlines()[0])
    for path in ("--hermes", "--simulator", "--peers", "--logs"):
        parser.add_argument(path, type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--sidecar", type=Path, help="llm-d's pd-sidecar, for a trial with it")
    given = parser.parse_args()
    programs = Programs(given.hermes, given.simulator, given.peers, given.logs)
    vllm = {
        connector: peer("vllm-router", "--vllm-pd-disaggregation", "--kv-connector", connector)
        for connector in ("nixl", "mooncake")
    }
    sglang = peer("sglang-router", "launch", "--pd-disaggregation")
    trials = [
        ("hermes before llm-d's engines", llm_d_fleet, hermes("vllm-nixl"), split_at_llm_d),
        ("vllm-router before our NIXL engines", hermes_fleet("vllm-nixl"), vllm["nixl"], split_at_hermes),
        ("vllm-router before our Mooncake engines", hermes_fleet("vllm-mooncake"), vllm["mooncake"], split_at_hermes),
        ("sglang-router before our SGLang engines", hermes_fleet("sglang"), sglang, split_at_hermes),
    ]
    if given.sidecar:
        fleet = sidecar_fleet(given.sidecar)
        trials.append(("hermes before llm-d's sidecars", fleet, hermes("llm-d-sidecar"), split_at_hermes))
    outcomes = []
    for name, *parts in trials:
        try:
            outcomes.append(trial(programs, name, *parts))
        except (Failed, subprocess.TimeoutExpired) as problem:
            print(f"{name}: FAILED: {problem}", flush=True)
            outcomes.append(False)
    print(f"\n{sum(outcomes)} passed, {len(outcomes) - sum(outcomes)} failed")
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    # SIGTERM unwinds the stack, as Ctrl-C does, so that no process is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
