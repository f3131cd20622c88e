"""The processes of a trial: vLLM servers on one core each, and the router in front of them. All end with the trial."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

# Loading torch on a busy machine takes longer than serving does.
VLLM_READY_SECONDS = 900.0
MODEL = "tiny"
ADAPTER = "tiny-lora"


class Server:
    """A child process in a process group of its own, so that its children end with it."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path, stdout: int | None = None) -> None:
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdout=stdout or stderr,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Ends the whole group at once, as a node that fails would."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def require_alive(self) -> None:
        if self.process.poll() is not None:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])
            sys.exit(f"{self.process.args[0]} ended with status {self.process.returncode}:\n{tail}")


class Vllm(Server):
    """A real vLLM server on one core."""

    def __init__(
        self,
        core: int,
        home: Path,
        logs: Path,
        adapter: bool,
        more: list[str] | None = None,
        port: int = 0,
        variables: dict[str, str] | None = None,
        name: str = "",
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(home / "model"), "--served-model-name", MODEL, "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--max-model-len", "4096", "--block-size", "32", "--dtype", "bfloat16"]
        command += ["--enforce-eager", "--enable-prefix-caching", "--enable-prompt-tokens-details"]
        if adapter:
            command += ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"{ADAPTER}={home / 'adapter'}"]
        command += more or []
        environment = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": str(core),
            "PYTHONHASHSEED": "0",
            # Without it an idle server keeps a core busy.
            "VLLM_SLEEP_WHEN_IDLE": "1",
            # For `/reset_prefix_cache`.
            "VLLM_SERVER_DEV_MODE": "1",
            **(variables or {}),
        }
        super().__init__(command, environment, logs / f"vllm-{name or core}.log")

    def metric(self, name: str, *labels: str) -> float:
        lines = httpx.get(f"{self.url}/metrics", timeout=30).raise_for_status().text.splitlines()
        return total([line for line in lines if all(label in line for label in labels)], name)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Its engine schedules nothing meanwhile, as one that is stuck; its API goes on taking requests."""
        engines = [process for process in members_of(self.process.pid) if process[1].startswith("VLLM::EngineCor")]
        assert engines, f"no engine in the process group {self.process.pid}"
        try:
            for pid, _ in engines:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            if self.process.poll() is None:
                for pid, _ in engines:
                    os.kill(pid, signal.SIGCONT)


class Hermes(Server):
    """`hermes serve` in front of these engines, or as this configuration says."""

    def __init__(self, binary: str, engines: list[Vllm], logs: Path, config: Path | None = None, flags: list[str] | None = None) -> None:
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *(flags or [])]
        if config:
            command += ["--config", str(config)]
        else:
            command += ["--strategy", "kv-aware"]
            for engine in engines:
                command += ["--endpoint", engine.url]
        super().__init__(command, {"HERMES_LOG": "info"}, logs / "hermes.log", stdout=subprocess.PIPE)
        assert self.process.stdout
        self.url = address(self.process.stdout.readline(), "listening on ")
        self.admin = address(self.process.stdout.readline(), "admin on ")
        self.process.stdout.readline()
        self.control = address(self.process.stdout.readline(), "control plane's admin on ")

    def metric(self, name: str, *labels: str) -> float:
        lines = httpx.get(f"{self.admin}/metrics").raise_for_status().text.splitlines()
        return total([line for line in lines if all(label in line for label in labels)], name)

    def stream(self) -> dict:
        """How the KV events of the pool's first endpoint are followed."""
        streams = httpx.get(f"{self.control}/debug/kv-events").raise_for_status().json().get("chat", {"streams": []})["streams"]
        return streams[0] if streams else {"standing": "unsynced", "blocks": 0, "next": 0}

    def arrivals(self, outcome: str) -> float:
        """Publishers that dialed and ended so."""
        lines = httpx.get(f"{self.control}/metrics").raise_for_status().text.splitlines()
        return total([line for line in lines if f'"{outcome}"' in line], "hermes_kv_events_arrivals_total")

    def settled(self) -> None:
        """Waits until no more KV events come: vLLM publishes up to 0.1 s after a step."""
        seen, since = self.stream(), time.monotonic()
        while time.monotonic() - since < 0.3:
            time.sleep(0.05)
            now = self.stream()
            if (now["next"], now["blocks"]) != (seen["next"], seen["blocks"]):
                seen, since = now, time.monotonic()

    def estimated(self, tokens: list[int], adapter: str | None = None, salt: str | None = None) -> int | None:
        """How many of these tokens the first endpoint has cached, by its KV events; nothing if it is not known."""
        question = {"tokens": tokens, "adapter": adapter, "salt": salt}
        answer = httpx.post(f"{self.control}/debug/kv-events?pool=chat", json=question).raise_for_status().json()
        return answer["hits"][0]["cached"]["gpu"] if answer["hits"] else None

    def snapshot(self) -> dict:
        return httpx.get(f"{self.admin}/debug/snapshot").raise_for_status().json()


def publishing(publish: int, replay: int, topic: str = "") -> list[str]:
    """What makes a vLLM publish KV events on these ports."""
    config = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": topic}
    config |= {"endpoint": f"tcp://*:{publish}", "replay_endpoint": f"tcp://*:{replay}"}
    return ["--kv-events-config", json.dumps(config)]


def handing_over(role: str, side_channel: int) -> tuple[list[str], dict[str, str]]:
    """What makes a vLLM one half of a pair, by NIXL over loopback: arguments, and environment variables."""
    config = {"kv_connector": "NixlConnector", "kv_role": role, "kv_buffer_device": "cpu"}
    variables = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_channel)}
    variables |= {"UCX_TLS": "tcp", "UCX_NET_DEVICES": "lo"}
    return ["--kv-transfer-config", json.dumps(config)], variables


def start_engines(stack: ExitStack, home: Path, logs: Path) -> list[Vllm]:
    """Two servers, the second with an adapter; ready when this returns."""
    engines = []
    for core, adapter in ((0, False), (1, True)):
        engine = Vllm(core, home, logs, adapter)
        stack.callback(engine.kill)
        engines.append(engine)
    for engine in engines:
        wait_for(lambda engine=engine: healthy(engine), f"{engine.url} is healthy", VLLM_READY_SECONDS)
    return engines


def report(checks: list[Callable], trial: object, columns: tuple[str, ...] = ("seen",)) -> int:
    """Runs all checks, prints what each saw as a row of a table, and answers how many failed."""
    failed = 0
    print(f"| check | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            print(f"| {name} | {check(trial)} |", flush=True)
        except Exception as error:  # A check that fails is a row like the others; the rest is still worth knowing.
            failed += 1
            traceback.print_exc()
            print(f"| {name} | **failed**: {type(error).__name__}: {error} |{' |' * (len(columns) - 1)}", flush=True)
    print(f"\n{len(checks) - failed} passed, {failed} failed")
    return failed


def members_of(group: int) -> list[tuple[int, str]]:
    """The processes of a group: identifiers and names, which the kernel cuts off after 15 characters."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name is in brackets, and may have spaces in it.
            before, after = path.read_text().rsplit(")", 1)
        except OSError:
            continue
        pid, name = before.split(" (", 1)
        if int(after.split()[2]) == group:
            members.append((int(pid), name))
    return members


def healthy(server: Vllm) -> bool:
    server.require_alive()
    try:
        return httpx.get(f"{server.url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def wait_for(holds: Callable[[], bool], what: str, seconds: float = 30.0) -> float:
    """Waits until something holds; answers how many seconds that took."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > seconds:
            raise AssertionError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - begun


def free_port() -> int:
    """A port that was free a moment ago: vLLM does not report which port it chose for 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def address(line: str, prefix: str) -> str:
    if not line.startswith(prefix):
        sys.exit(f"hermes printed {line!r} where `{prefix}ADDRESS` belongs")
    return line.removeprefix(prefix).split()[0]


def total(lines: list[str], name: str) -> float:
    """The sum of a metric's samples."""
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))
