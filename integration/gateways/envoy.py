"""Hermes as Envoy's endpoint picker, checked as a client of Envoy sees it."""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from known_endpoints import CALL_LIMIT_SECONDS, with_known_endpoints

WAIT_SECONDS = 30.0
CHATS_AT_ONCE = 8
# How long a picker that was killed could still be chosen: Envoy checks each second, for up to a second.
AFTER_KILL_SECONDS = 3.0

# Changes to the ext_proc filter of envoy.yaml, by what they are called here.
DUPLEX = "request_body_mode: FULL_DUPLEX_STREAMED\n                response_body_mode: FULL_DUPLEX_STREAMED"
MODES = {
    "full duplex": DUPLEX,
    "buffered": "request_body_mode: BUFFERED\n                response_body_mode: STREAMED",
    "streamed": "request_body_mode: STREAMED\n                response_body_mode: STREAMED",
    "streamed early": "request_body_mode: STREAMED\n                response_body_mode: STREAMED",
    "hidden answers": "request_body_mode: FULL_DUPLEX_STREAMED\n                response_body_mode: NONE",
}
# A filter that may fail, for one check.
SURVIVING = "surviving"
CHANGES = {**MODES, SURVIVING: MODES["buffered"]}
EXTRA = {
    "streamed": "allow_mode_override: true",
    "streamed early": "send_body_without_waiting_for_header_response: true",
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(what: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {WAIT_SECONDS:.0f} s: {what}")
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Processes:
    """The processes of this run, each with a log; all end with it."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *command: object) -> subprocess.Popen[bytes]:
        with (self.logs / f"{name}.log").open("w") as log:
            process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
        self.running.append(process)
        return process

    def stop(self) -> None:
        for process in self.running:
            process.kill()
        for process in self.running:
            process.wait()


class Pickers:
    """One control plane and two data planes that are pickers, in front of two engines."""

    def __init__(self, processes: Processes, binaries: Path, tls: Path | None = None) -> None:
        name = "tls-" if tls else ""
        engines = [free_port(), free_port()]
        for at, port in enumerate(engines):
            processes.start(f"{name}engine-{at}", binaries / "hermes", "engine", "--listen", f"127.0.0.1:{port}")
        self.engines = engines
        self.ports, self.admins = [free_port(), free_port()], [free_port(), free_port()]
        control_plane = free_port()
        flags = ["--picker-tls", tls] if tls else []
        first = processes.start(
            f"{name}picker-0",
            *(binaries / "hermes", "serve", "--listen", "127.0.0.1:0"),
            *("--endpoint", ",".join(f"http://127.0.0.1:{port}" for port in engines)),
            *("--control-plane-listen", f"127.0.0.1:{control_plane}"),
            *("--picker-listen", f"127.0.0.1:{self.ports[0]}", "--admin", f"127.0.0.1:{self.admins[0]}", *flags),
        )
        second = processes.start(
            f"{name}picker-1",
            *(binaries / "hermes-data-plane", "--listen", "127.0.0.1:0"),
            *("--control-plane", f"http://127.0.0.1:{control_plane}"),
            *("--picker-listen", f"127.0.0.1:{self.ports[1]}", "--admin", f"127.0.0.1:{self.admins[1]}", *flags),
        )
        self.start, self.processes = processes.start, [first, second]
        for admin in self.admins:
            wait_for("a picker is ready", lambda admin=admin: status_of(admin, "/readyz") == 200)

    def restart(self) -> None:
        """Starts the second picker again, and waits until it is used."""
        self.processes[1] = self.start("picker-1-again", *self.processes[1].args)
        wait_for("it is ready", lambda: status_of(self.admins[1], "/readyz") == 200)
        wait_for("it is used", lambda: 'end="served"} 0' not in get(self.admins[1], "/metrics"))

    def sum(self, series: str) -> float:
        """Of both pickers that still answer."""
        return sum(sum_of(get(admin, "/metrics"), series) for admin in self.admins if listens(admin))


def sum_of(page: str, series: str) -> float:
    """The sum of a page's samples that begin with `series`."""
    lines = [line for line in page.splitlines() if line.startswith(series)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def status_of(port: int, path: str) -> int:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0


def get(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    return connection.getresponse().read().decode()


class Envoy:
    """envoy.yaml with these ports, and with one mode."""

    def __init__(self, processes: Processes, envoy: Path, config: str, mode: str, ports: list[int], tls: bool) -> None:
        self.port, admin = free_port(), free_port()
        text = config.replace("port_value: 9901", f"port_value: {admin}")
        text = text.replace("port_value: 8080", f"port_value: {self.port}")
        endpoint = "        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 9002}}}"
        assert endpoint in text and DUPLEX in text, "envoy.yaml has changed"
        text = text.replace(endpoint, "\n".join(endpoint.replace("9002", str(port)) for port in ports))
        text = text.replace(DUPLEX, CHANGES[mode])
        if mode == SURVIVING:
            text = text.replace("failure_mode_allow: false", "failure_mode_allow: true")
        if mode in EXTRA:
            text = text.replace("failure_mode_allow: false", f"failure_mode_allow: false\n              {EXTRA[mode]}")
        if tls:
            secured = (
                "    transport_socket:\n      name: envoy.transport_sockets.tls\n      typed_config:\n"
                '        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n'
            )
            text = text.replace("    # One that drains says so.\n", secured + "    # One that drains says so.\n")
        name = f"envoy-{mode.replace(' ', '-')}-{self.port}"
        file = processes.logs / f"{name}.yaml"
        file.write_text(text)
        processes.start(name, envoy, "-c", file, "--base-id", self.port, "-l", "warning")
        wait_for("Envoy listens", lambda: listens(self.port))
        wait_for("a picker is healthy", lambda: self.chat()[0] == 200)

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {"content-type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers

    def chat(self, stream: bool = False, tokens: int = 3, content: str = "hello", **fields: object):
        messages = [{"role": "user", "content": content}]
        body = {"model": "sim", "stream": stream, "max_tokens": tokens, "messages": messages, **fields}
        return self.ask("POST", "/v1/chat/completions", json.dumps(body).encode())


def check_chats(envoy: Envoy, pickers: Pickers) -> None:
    ended = 'hermes_requests_total{pool="default",model="sim",outcome="ok"}'
    before = pickers.sum(ended)
    status, body, headers = envoy.chat(tokens=5)
    assert status == 200 and json.loads(body)["usage"]["completion_tokens"] == 5, body
    assert headers["x-request-id"], headers
    status, body, _ = envoy.chat(stream=True, tokens=5)
    assert status == 200 and body.endswith(b"data: [DONE]\n\n"), body
    wait_for("both chats are counted", lambda: pickers.sum(ended) == before + 2)


def check_bodies(envoy: Envoy) -> None:
    # Fits into Envoy's buffer in every mode, and has a field in it that no client may set.
    status, body, _ = envoy.chat(content="word " * 40_000, kv_transfer_params={"remote_host": "10.6.6.6"})
    assert status == 200, body[:300]


def check_long_bodies(envoy: Envoy) -> None:
    # Too long for the engine, which says so: it has received all of it.
    status, body, _ = envoy.chat(content="0123456789" * 1_000_000)
    assert status == 400 and b"maximum context length" in body, body[:300]


def check_errors(envoy: Envoy) -> None:
    status, body, _ = envoy.ask("POST", "/v1/chat/completions", b'{"model":')
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_body"), body
    status, body, _ = envoy.chat(model="simm")
    assert status == 404 and b"did you mean sim?" in body, body
    status, body, _ = envoy.ask("POST", "/v1/messages", b"[")
    assert (status, json.loads(body)["type"]) == (400, "error"), body
    status, body, _ = envoy.ask("GET", "/nowhere")
    assert status == 404, body


def check_models(envoy: Envoy) -> None:
    status, body, _ = envoy.ask("GET", "/v1/models")
    assert status == 200 and json.loads(body)["data"][0]["id"] == "sim", body


def check_clients_cannot_choose(envoy: Envoy) -> None:
    for name in ("x-gateway-destination-endpoint", "x-prefiller-host-port"):
        body = {"model": "sim", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
        headers = {name: "127.0.0.1:9"}
        status, answer, _ = envoy.ask("POST", "/v1/chat/completions", json.dumps(body).encode(), headers)
        assert status == 200, (name, answer)


def check_leaving(envoy: Envoy, pickers: Pickers) -> None:
    body = {"model": "sim", "stream": True, "max_tokens": 5_000, "messages": [{"role": "user", "content": "x"}]}
    connection = http.client.HTTPConnection("127.0.0.1", envoy.port, timeout=10)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    connection.getresponse().read(1_000)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    wait_for("nothing is in flight", lambda: pickers.sum("hermes_requests_in_flight") == 0)
    wait_for("no stream is open", lambda: pickers.sum("hermes_picker_open_streams ") == 0)


def check_the_picker_is_obeyed(envoy: Envoy, pickers: Pickers) -> None:
    """A repeated prompt goes where it is cached, and not in turn."""
    served = "vllm:request_success_total"
    before = [sum_of(get(port, "/metrics"), served) for port in pickers.engines]
    for _ in range(6):
        assert envoy.chat(content="the same long words " * 200)[0] == 200
    after = [sum_of(get(port, "/metrics"), served) for port in pickers.engines]
    grown = sorted(end - begin for begin, end in zip(before, after, strict=True))
    assert grown == [0, 6], grown


def check_a_long_stream(envoy: Envoy) -> None:
    begun = time.monotonic()
    status, body, _ = envoy.chat(stream=True, tokens=400)
    assert status == 200 and body.endswith(b"data: [DONE]\n\n"), body[-300:]
    assert time.monotonic() > begun + 2 * CALL_LIMIT_SECONDS, "the stream was shorter than the limit"


@dataclass(frozen=True)
class FailedChat:
    began: float
    was_cut: bool
    """Its answer had begun."""
    error: str


class Load:
    """Chats, several at once, until it is stopped."""

    def __init__(self, envoy: Envoy) -> None:
        self.failures: list[FailedChat] = []
        self.served = 0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.chats, args=(envoy,)) for _ in range(CHATS_AT_ONCE)]
        for thread in self.threads:
            thread.start()

    def chats(self, envoy: Envoy) -> None:
        while not self.stopping.is_set():
            began = time.monotonic()
            try:
                status, body, _ = envoy.chat(stream=True, tokens=10)
                is_whole = status == 200 and body.endswith(b"data: [DONE]\n\n")
                failure = None if is_whole else FailedChat(began, status == 200, f"{status} {body[:200]!r}")
            except (OSError, http.client.HTTPException) as error:
                failure = FailedChat(began, isinstance(error, http.client.IncompleteRead), repr(error))
            with self.lock:
                if failure:
                    self.failures.append(failure)
                else:
                    self.served += 1

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def kill_one(load: Load, pickers: Pickers) -> float:
    """Kills a picker, and waits until all that it can cost is seen. Returns when it was killed."""
    killed = time.monotonic()
    pickers.processes[1].kill()
    pickers.processes[1].wait()
    wait_for("Envoy has noticed", lambda: time.monotonic() > killed + AFTER_KILL_SECONDS)
    served = load.served
    wait_for("chats go on", lambda: load.served > served + 40)
    return killed


def check_a_drain_and_a_kill(envoy: Envoy, pickers: Pickers) -> None:
    load = Load(envoy)
    wait_for("chats are served", lambda: load.served > 20)
    pickers.processes[1].send_signal(signal.SIGTERM)
    pickers.processes[1].wait(timeout=WAIT_SECONDS)
    served = load.served
    wait_for("chats go on", lambda: load.served > served + 20)
    drained = list(load.failures)
    # Killed soon after Envoy has noticed that it is back, when a second change is the hardest to apply.
    pickers.restart()
    killed = kill_one(load, pickers)
    load.stop()
    assert not drained, f"a drain cost {len(drained)} of {load.served} chats: {drained[:3]}"
    late = [failure for failure in load.failures if failure.began > killed]
    assert not late, f"{len(late)} chats that began after the kill failed: {late[:3]}"
    held = len(load.failures)
    assert held <= CHATS_AT_ONCE, f"a kill cost {held} chats, more than were open: {load.failures[:3]}"
    print(f"     {load.served} chats; the drain cost none, the kill {held} of those that were open")


def check_that_answers_survive_their_picker(envoy: Envoy, pickers: Pickers) -> None:
    load = Load(envoy)
    wait_for("chats are served", lambda: load.served > 20)
    pickers.restart()
    killed = kill_one(load, pickers)
    load.stop()
    cut = [failure for failure in load.failures if failure.was_cut or failure.began > killed]
    assert not cut, f"{len(cut)} answers ended with their picker: {cut[:3]}"
    print(f"     {load.served} chats; the kill cost {len(load.failures)} that waited for a destination")


def certificate(folder: Path) -> Path:
    folder.mkdir()
    files = ("-keyout", folder / "tls.key", "-out", folder / "tls.crt")
    made = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=picker", *files)
    subprocess.run([str(part) for part in made], check=True, capture_output=True)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for flag in ("--binaries", "--envoy", "--config"):
        parser.add_argument(flag, type=Path, required=True)
    options = parser.parse_args()
    config = options.config.read_text()
    results = {"passed": 0, "failed": 0}

    def check(name: str, step: Callable[[], None]) -> None:
        try:
            step()
            results["passed"] += 1
            print(f"ok   {name}")
        except Exception as error:  # noqa: BLE001
            results["failed"] += 1
            print(f"FAIL {name}: {error!r}")

    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder))
        try:
            pickers = Pickers(processes, options.binaries)
            envoys = {
                mode: Envoy(processes, options.envoy, config, mode, pickers.ports, tls=False) for mode in MODES
            }
            for mode, envoy in envoys.items():
                check(f"{mode}: chats", lambda envoy=envoy: check_chats(envoy, pickers))
                check(f"{mode}: bodies", lambda envoy=envoy: check_bodies(envoy))
                check(f"{mode}: errors", lambda envoy=envoy: check_errors(envoy))
                check(f"{mode}: models", lambda envoy=envoy: check_models(envoy))
                check(f"{mode}: clients choose no endpoint", lambda envoy=envoy: check_clients_cannot_choose(envoy))
                check(f"{mode}: a client that leaves", lambda envoy=envoy: check_leaving(envoy, pickers))
            duplex = envoys["full duplex"]
            check("full duplex: ten megabytes", lambda: check_long_bodies(duplex))

            known = with_known_endpoints(config, pickers.engines)
            gateway = Envoy(processes, options.envoy, known, "full duplex", pickers.ports, tls=False)
            check("known endpoints: chats", lambda: check_chats(gateway, pickers))
            check("known endpoints: the picker is obeyed", lambda: check_the_picker_is_obeyed(gateway, pickers))
            check("known endpoints: a long stream", lambda: check_a_long_stream(gateway))

            def secured() -> None:
                behind_tls = Pickers(processes, options.binaries, certificate(Path(folder) / "certificate"))
                envoy = Envoy(processes, options.envoy, config, "full duplex", behind_tls.ports, tls=True)
                check_chats(envoy, behind_tls)

            check("tls: chats", secured)

            check("a drain and a kill under load", lambda: check_a_drain_and_a_kill(duplex, pickers))

            def survived() -> None:
                envoy = Envoy(processes, options.envoy, config, SURVIVING, pickers.ports, tls=False)
                check_that_answers_survive_their_picker(envoy, pickers)

            check("answers survive their picker where the filter may fail", survived)
        finally:
            processes.stop()
        if results["failed"]:
            for log in sorted(Path(folder).glob("*.log")):
                print(f"--- {log.name}\n{log.read_text()[-3000:]}", file=sys.stderr)
    print(f"{results['passed']} passed, {results['failed']} failed")
    return 1 if results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
