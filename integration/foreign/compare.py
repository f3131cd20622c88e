"""Routers in turns, in front of the same kinds of engines and under the same chats: a table of what clients saw.

Every turn begins with fresh engines and a fresh router. Routers come in one order the first time and in the opposite
one the next, so that what else the machine does falls on all of them.

Two turns of one router differ by up to a fifth on a machine that does other work, which is why the limit of a run is
far above its goal: it finds a router that lost its way, and the table shows the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from servers import ENGINES, MODEL, ROUTERS, Engine, Failed, Programs, start_engines, start_router

OURS = "kv-aware"


@dataclass(frozen=True)
class Chats:
    users: int
    rounds: int
    rate: float
    system_tokens: int
    history_tokens: int
    question_tokens: int
    answer_tokens: int
    requests: int
    seed: int


# What a size does not share with the other: a quarter of the users on a quarter of the memory is as tight.
SIZES = {
    "full": {"users": 48, "cache": 65_536, "requests": 810, "limit": 1.3},
    "quick": {"users": 12, "cache": 16_384, "requests": 90, "limit": 2.0},
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="integration/foreign/run", description=__doc__.splitlines()[0])
    for path in ("--hermes", "--simulator", "--peers", "--logs"):
        parser.add_argument(path, type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("size", nargs="?", choices=list(SIZES), default="full")
    parser.add_argument("--kinds", default="llm-d,hermes", help=f"of engines, of {', '.join(ENGINES)} (%(default)s)")
    parser.add_argument("--routers", default=",".join(ROUTERS), help="(%(default)s)")
    parser.add_argument("--engines", type=int, default=4, help="how many engines (%(default)s)")
    parser.add_argument("--cache", type=int, help="tokens of KV cache of an engine")
    parser.add_argument("--users", type=int, help="users at the same time")
    parser.add_argument("--rounds", type=int, default=10, help="questions of a session (%(default)s)")
    parser.add_argument("--rate", type=float, default=5.0, help="requests a second (%(default)s)")
    parser.add_argument("--history", type=int, default=3_000, help="own tokens of a session at its start (%(default)s)")
    parser.add_argument("--requests", type=int, help="requests of a turn")
    parser.add_argument("--turns", type=int, default=1, help="turns of each router (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="decides the chats (%(default)s)")
    parser.add_argument("--limit", type=float, help=f"most that {OURS}'s mean may be, in multiples of the best other")
    given = parser.parse_args()
    for name, value in SIZES[given.size].items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    for name, known in (("kinds", ENGINES), ("routers", ROUTERS)):
        unknown = set(getattr(given, name).split(",")) - set(known)
        if unknown:
            parser.error(f"--{name}: no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return given


def load(programs: Programs, chats: Chats, target: str, pid: int) -> dict:
    """The report of the chats on `target`; bounded in number and in time."""
    seconds = chats.requests / chats.rate * 1.5 + 10
    command = [str(programs.hermes), "load", "--target", target, "--model", MODEL, "--workload", "conversation", "--json"]
    options = {
        "users": chats.users,
        "rounds": chats.rounds,
        "rate": chats.rate,
        "system-tokens": chats.system_tokens,
        "history-tokens": chats.history_tokens,
        "question-tokens": chats.question_tokens,
        "tokens": chats.answer_tokens,
        "count": chats.requests,
        "duration": seconds,
        "seed": chats.seed,
        "pid": pid,
    }
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run([*command, "--ignore-eos"], capture_output=True, text=True, timeout=seconds + 90)
    if not done.stdout:
        raise Failed(f"hermes load: {done.stderr}")
    report = json.loads(done.stdout)
    report["cpu"] = report["cpu_s"].get(str(pid), 0.0)
    return report


def turn(programs: Programs, kind: str, engine: Engine, count: int, router: str, chats: Chats) -> dict:
    with ExitStack() as stack:
        started = lambda server: stack.callback(server.stop)  # noqa: E731
        engines = start_engines(programs, kind, engine, count, started)
        url, server = start_router(programs, router, engines, started)
        return load(programs, chats, url, server.pid)


@dataclass
class Row:
    reports: list[dict]

    def mean(self, *path: str) -> float:
        def at(report: dict) -> float:
            for name in path:
                report = report[name]
            return report

        return statistics.mean(at(report) for report in self.reports)

    @property
    def failed(self) -> int:
        return sum(report["requests"] - report["ok"] for report in self.reports)

    @property
    def ttft(self) -> float:
        return self.mean("ttft", "mean_ms")

    def __str__(self) -> str:
        requests = int(self.mean("requests"))
        quantiles = " | ".join(f"{self.mean('ttft', name):.0f}" for name in ("p50_ms", "p99_ms"))
        hits = sum(r["cached_tokens"] for r in self.reports) / max(1, sum(r["prompt_tokens"] for r in self.reports))
        cpu = self.mean("cpu") * 1e3 / max(1, requests)
        return f"{self.ttft:.0f} | {quantiles} | {hits:.1%} | {self.failed} of {requests * len(self.reports)} | {cpu:.1f}"


def compare(programs: Programs, given: argparse.Namespace, kind: str, chats: Chats) -> dict[str, Row]:
    routers = given.routers.split(",")
    rows = {router: Row([]) for router in routers}
    for number in range(given.turns):
        for router in routers if number % 2 == 0 else reversed(routers):
            engine = Engine(cache_tokens=given.cache)
            rows[router].reports.append(turn(programs, kind, engine, given.engines, router, chats))
            print(f"  {kind}, {router}: {rows[router].reports[-1]['ttft']['mean_ms']:.0f} ms", file=sys.stderr, flush=True)
    print(f"\n{given.engines} engines of the kind {kind}:\n")
    print("| router | TTFT mean, ms | p50 | p99 | cached | failed | CPU of the router, ms a request |")
    print("|---|---|---|---|---|---|---|")
    for router, row in rows.items():
        print(f"| `{router}` | {row} |", flush=True)
    return rows


def verdict(kind: str, rows: dict[str, Row], limit: float) -> list[bool]:
    failed = sum(row.failed for row in rows.values())
    short = [router for router, row in rows.items() if not row.reports[0]["ok"]]
    print(f"\n{kind}: {failed} requests failed{'; none was answered by ' + ', '.join(short) if short else ''}")
    checks = [failed == 0 and not short]
    others = [row.ttft for router, row in rows.items() if router != OURS]
    if OURS in rows and others:
        ratio = rows[OURS].ttft / min(others)
        print(f"{kind}: mean TTFT of {OURS} is {ratio:.2f} of the best other (goal 1.02, limit {limit})")
        checks.append(ratio <= limit)
    return checks


def main() -> int:
    given = parse()
    programs = Programs(given.hermes, given.simulator, given.peers, given.logs)
    sizes = {"system_tokens": 200, "history_tokens": given.history, "question_tokens": 30, "answer_tokens": 60}
    chats = Chats(given.users, given.rounds, given.rate, **sizes, requests=given.requests, seed=given.seed)
    print(f"{chats.users} users with {chats.rounds} rounds, {chats.rate:g} requests/s, {chats.requests} requests, {sizes}")
    print(f"caches of {given.cache} tokens; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    checks = []
    try:
        for kind in given.kinds.split(","):
            checks += verdict(kind, compare(programs, given, kind, chats), given.limit)
    except (Failed, subprocess.TimeoutExpired) as problem:
        print(f"integration/foreign: {problem}", file=sys.stderr)
        checks.append(False)
    print(f"\n{sum(checks)} passed, {len(checks) - sum(checks)} failed")
    return 0 if all(checks) else 1


if __name__ == "__main__":
    # SIGTERM unwinds the stack, as Ctrl-C does, so that no process is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
