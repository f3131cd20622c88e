"""The system under test: releases of both charts on a cluster, under names that all scenarios share."""

import json
import os
import tempfile
from pathlib import Path

from kubernetes import name_of, service_path

REPOSITORY = Path(__file__).resolve().parents[3]
CHARTS = REPOSITORY / "charts"
ROUTER = "hermes-router"
ENGINES = "hermes-engines"
CONTROL_PLANE, DATA_PLANE = PLANES = (f"{ROUTER}-control-plane", f"{ROUTER}-data-plane")
# The one Deployment of engines.
ENGINE = f"{ENGINES}-sim"


class Context:
    """The installed system."""

    def __init__(self, cluster, figures):
        self.cluster = cluster
        self.figures = figures
        self.model = "sim"
        self.registry = os.environ["HERMES_REGISTRY"]
        self.tag = os.environ["HERMES_TAG"]
        # Whether the cluster was started by `machine/up`, so that its processes and its node can be reached.
        self.own = "HERMES_MACHINE" in os.environ
        self.entry = f"http://{ROUTER}-data-plane.{cluster.namespace}:8000"

    # === Names ===

    def image(self, name):
        return f"{self.registry}/{name}:{self.tag}"

    @staticmethod
    def part(name):
        return f"app.kubernetes.io/instance={ROUTER},app.kubernetes.io/component={name}"

    control_plane = part("control-plane")
    data_plane = part("data-plane")
    engines = f"app.kubernetes.io/instance={ENGINES},app.kubernetes.io/component=sim"

    # === Charts ===

    def install(self, release, values, *flags, chart=None):
        """`helm upgrade --install` of the chart with the release's name or `chart`, with the images of this run."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values, file)
            file.flush()
            return self.cluster.helm(
                "upgrade", "--install", release, str(CHARTS / (chart or release)), "--values", file.name,
                "--set", f"image.registry={self.registry},image.tag={self.tag}", *flags,
            )

    def rolled_out(self, *deployments, seconds=120):
        for deployment in deployments:
            self.cluster.kubectl("rollout", "status", f"deployment/{deployment}", f"--timeout={seconds}s")

    # === Requests and state ===

    def chat(self, text="hello", stream=False, headers=None):
        """Sends one chat through the Service of the data plane. Returns status and body."""
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "max_tokens": 8, "stream": stream}
        path = service_path(self.cluster, DATA_PLANE, 8000, "/v1/chat/completions")
        status, _, data = self.cluster.request("POST", path, body, headers=headers)
        return status, data.decode()

    def control_plane_pods(self):
        return [name_of(pod) for pod in self.cluster.ready_pods(self.control_plane)]

    def data_plane_pods(self):
        return [name_of(pod) for pod in self.cluster.ready_pods(self.data_plane)]

    def control_plane_metrics(self):
        """The metrics of each control-plane replica, by pod name."""
        return {pod: self.cluster.metrics(pod, 7071) for pod in self.control_plane_pods()}

    def data_plane_metrics(self):
        """The metrics of each proxy, by pod name."""
        return {pod: self.cluster.metrics(pod, 8001) for pod in self.data_plane_pods()}

    def snapshots(self):
        """The snapshot that each proxy uses, from `/debug/snapshot`."""
        pages = [self.cluster.inside(pod, 8001, "/debug/snapshot") for pod in self.data_plane_pods()]
        return [json.loads(page) for page in pages]
