"""A Kubernetes cluster: its API over `kubectl proxy`, and the programs kubectl and helm.

Objects are plain JSON; there is no client library. Every wait has a deadline, and its error names the condition. The
cluster is the one that KUBECONFIG names, local or remote.
"""

import http.client
import json
import re
import subprocess
import time
from contextlib import contextmanager
from urllib.parse import quote, urlencode

KINDS = {
    "pods": "/api/v1",
    "services": "/api/v1",
    "configmaps": "/api/v1",
    "secrets": "/api/v1",
    "events": "/api/v1",
    "endpointslices": "/apis/discovery.k8s.io/v1",
    "deployments": "/apis/apps/v1",
    "horizontalpodautoscalers": "/apis/autoscaling/v2",
}


class Refused(Exception):
    """The API answered with an error."""

    def __init__(self, status, text):
        super().__init__(f"{status}: {text[:500]}")
        self.status = status


class TooLate(AssertionError):
    """A condition did not become true before its deadline."""


def until(claim, look, seconds, every=0.1):
    """Calls `look` until it returns a true value, and returns that. After `seconds` it fails with `claim`, a text or a
    function that makes one.

    Errors of the API and missing objects count as "not yet".
    """
    deadline = time.monotonic() + seconds
    last = None
    while True:
        try:
            seen = look()
            if seen:
                return seen
        except (Refused, OSError, http.client.HTTPException) as error:
            last = error
        if time.monotonic() > deadline:
            what = claim() if callable(claim) else claim
            raise TooLate(f"not within {seconds} s: {what}" + (f" ({last})" if last else ""))
        time.sleep(every)


def run(*command, **options):
    """Runs a program and returns its stdout. The error of a failure carries stdout and stderr."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=options.pop("timeout", 180), **options)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


class Cluster:
    """The API of one namespace of a cluster."""

    def __init__(self, port, namespace):
        self.port = port
        self.namespace = namespace

    # === The API ===

    def request(self, method, path, body=None, kind="application/json", timeout=30, headers=None):
        """Sends one request. Returns status, headers and body of the response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, data, {**({"content-type": kind} if data else {}), **(headers or {})})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def ask(self, method, path, body=None, kind="application/json"):
        """As `request`, for JSON. Raises `Refused` for a status of 300 and above."""
        status, _, data = self.request(method, path, body, kind)
        if status >= 300:
            raise Refused(status, data.decode(errors="replace"))
        return json.loads(data)

    def path(self, kind, name=None, below=None, **query):
        path = f"{KINDS[kind]}/namespaces/{self.namespace}/{kind}"
        path += f"/{name}" if name else ""
        path += f"/{below}" if below else ""
        return path + (f"?{urlencode(query)}" if query else "")

    def get(self, kind, name):
        return self.ask("GET", self.path(kind, name))

    def list(self, kind, labels=""):
        return self.ask("GET", self.path(kind, labelSelector=labels))["items"]

    def create(self, kind, thing):
        return self.ask("POST", self.path(kind), thing)

    def patch(self, kind, name, change, below=None, how="merge-patch"):
        return self.ask("PATCH", self.path(kind, name, below), change, f"application/{how}+json")

    def delete(self, kind, name, **query):
        return self.ask("DELETE", self.path(kind, name, **query))

    def is_up(self):
        return self.request("GET", "/readyz", timeout=5)[0] == 200

    # === Pods and Deployments ===

    def pods(self, labels):
        """The pods that are not being deleted."""
        return [pod for pod in self.list("pods", labels) if "deletionTimestamp" not in pod["metadata"]]

    def ready_pods(self, labels):
        return [pod for pod in self.pods(labels) if is_ready(pod)]

    def scale(self, deployment, replicas):
        self.patch("deployments", deployment, {"spec": {"replicas": replicas}}, below="scale")

    def await_pods(self, labels, count, seconds=90):
        """Waits until exactly `count` pods exist and all are ready."""

        def look():
            pods = self.list("pods", labels)
            return len(pods) == count and all(is_ready(pod) for pod in pods) and pods

        return until(f"{count} ready pods of {labels}", look, seconds)

    def inside(self, pod, port, path, method="GET", body=None, timeout=10):
        """Sends a request to a port of a pod through the API server's proxy, so that it needs no route to the pod."""
        status, _, data = self.request(
            method, self.path("pods", f"{pod}:{port}", f"proxy{path}"), body, timeout=timeout
        )
        if status >= 300:
            raise Refused(status, data.decode(errors="replace"))
        return data.decode()

    def metrics(self, pod, port):
        return Metrics(self.inside(pod, port, "/metrics"))

    def log(self, pod, **query):
        status, _, data = self.request("GET", self.path("pods", pod, "log", **query))
        if status >= 300:
            raise Refused(status, data.decode(errors="replace"))
        return data.decode()

    # === Programs ===

    def kubectl(self, *arguments, **options):
        return run("kubectl", "--namespace", self.namespace, *arguments, **options)

    def helm(self, *arguments, **options):
        return run("helm", "--namespace", self.namespace, *arguments, **options)


class Metrics:
    """A page of Prometheus' text format."""

    LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
    LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self.samples = [
            (name, dict(self.LABEL.findall(labels)), float(value)) for name, labels, value in self.LINE.findall(text)
        ]

    def sum(self, name, **labels):
        """The sum of all samples of `name` with these labels; zero if there are none."""
        return sum(
            value
            for sample, own, value in self.samples
            if sample == name and all(own.get(key) == wanted for key, wanted in labels.items())
        )


def is_ready(pod):
    conditions = pod.get("status", {}).get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def name_of(thing):
    return thing["metadata"]["name"]


@contextmanager
def connected(namespace):
    """The cluster that KUBECONFIG names."""
    proxy = subprocess.Popen(
        ["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        greeting = proxy.stdout.readline()
        port = re.search(r"127\.0\.0\.1:(\d+)", greeting)
        if not port:
            raise AssertionError(f"no API: {greeting}{proxy.stdout.read()}")
        cluster = Cluster(int(port.group(1)), namespace)
        until("the API server answers", cluster.is_up, 30)
        yield cluster
    finally:
        proxy.terminate()
        proxy.wait(10)


def service_path(cluster, service, port, path):
    """The API server's proxy path to a port of a Service."""
    return cluster.path("services", f"{service}:{port}", f"proxy{quote(path)}")
