"""Programs that run beside the cluster, in its network, while a story is told."""

import json
import os
import subprocess
import urllib.request


def start(stack, command, log, environment=None):
    """Starts a program that ends with the stack."""
    output = stack.enter_context(open(log, "wb"))
    process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output,
                               env={**os.environ, **(environment or {})}, start_new_session=True)
    stack.callback(process.wait, 20)
    stack.callback(process.terminate)


def page(port, path):
    """What a program says on a port of this machine."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def document(port, path):
    """The same, for JSON."""
    return json.loads(page(port, path))
