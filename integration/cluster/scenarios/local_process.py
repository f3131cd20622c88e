"""Programs that run outside the cluster, in its network, for the time of a scenario."""

import json
import os
import subprocess
import urllib.request


def start(stack, command, log, environment=None):
    """Starts a program and ends it when the stack is closed."""
    output = stack.enter_context(open(log, "wb"))
    process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=output,
                               env={**os.environ, **(environment or {})}, start_new_session=True)
    stack.callback(process.wait, 20)
    stack.callback(process.terminate)


def page(port, path):
    """The body of a GET response from a port of this machine."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


def document(port, path):
    """As `page`, decoded from JSON."""
    return json.loads(page(port, path))
