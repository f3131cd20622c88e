"""A server that returns what a test wants, and the translation between the APIs of the SDKs."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def recorded(name: str) -> bytes:
    """What was recorded of a server, without its head and its translation."""
    path = Path(os.environ["HERMES_SDK_PAIRS"]) / f"{name}.txt"
    _, given = path.read_text().split("--- given\n")
    return given.split("--- made\n")[0].encode()


def translate(kind: str, body: bytes) -> bytes:
    """The translation, such as `chat-stream`."""
    command = [os.environ["HERMES_SDK_TRANSLATE"], kind]
    return subprocess.run(command, input=body, capture_output=True, check=True, timeout=30).stdout


@dataclass
class Script:
    """What the server returns to each request, and what it got."""

    url: str
    status: int = 200
    content_type: str = "application/json"
    body: bytes = b""
    requests: list[dict[str, Any]] = field(default_factory=list)

    def whole(self, body: bytes, status: int = 200) -> None:
        self.status, self.content_type, self.body = status, "application/json", body

    def stream(self, body: bytes) -> None:
        self.status, self.content_type, self.body = 200, "text/event-stream", body


@contextmanager
def scripted() -> Iterator[Script]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            script.requests.append(json.loads(body))
            self.send_response(script.status)
            self.send_header("content-type", script.content_type)
            self.end_headers()
            # In pieces that are cut anywhere; the connection's end is the body's.
            for at in range(0, len(script.body), 61):
                self.wfile.write(script.body[at : at + 61])
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script = Script(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
