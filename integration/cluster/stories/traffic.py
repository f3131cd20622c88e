"""Traffic from inside the cluster: `hermes load` in a pod, and what its clients saw."""

import json

from kubernetes import is_ready, until

# What a namespace that enforces the `restricted` standard asks of every pod.
POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


class Load:
    """A load that goes on until it is told that it is enough. Nothing that it sends is given up."""

    # Over any story, under the trial's own limit.
    LONGEST = 900

    def __init__(self, world, name, *flags, labels=None, target=None):
        self.cluster = world.cluster
        self.name = f"load-{name}"
        arguments = ["load", "--json", "--target", target or world.entry, "--model", world.model]
        if "--duration" not in flags:
            arguments += ["--duration", str(self.LONGEST)]
        self.cluster.create("pods", {
            "metadata": {"name": self.name, "labels": {"app": "load", **(labels or {})}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 90,
                "automountServiceAccountToken": False,
                "securityContext": POD_SECURITY,
                "containers": [{
                    "name": "load",
                    "image": world.image("hermes"),
                    "args": arguments + list(flags),
                    "securityContext": CONTAINER_SECURITY,
                }],
            },
        })
        until(f"{self.name} runs", lambda: is_ready(self.pod()), 30)

    def pod(self):
        return self.cluster.get("pods", self.name)

    def is_over(self):
        return self.pod()["status"]["phase"] in ("Succeeded", "Failed")

    def enough(self):
        """Ends the load gently; what its clients saw, as `hermes load --json` tells it."""
        # Deleting the pod would delete its log. One that is over its deadline is ended by SIGTERM, and stays.
        self.cluster.patch("pods", self.name, {"spec": {"activeDeadlineSeconds": 1}})
        return self.report(seconds=100)

    def report(self, seconds):
        """Waits for the end; what clients saw."""
        until(f"{self.name} ends", self.is_over, seconds, every=0.3)
        report = json.loads(self.cluster.log(self.name).strip().splitlines()[-1])
        self.cluster.delete("pods", self.name, gracePeriodSeconds=0)
        return report


def all_well(report):
    """Fails unless every request ended well: no error, no broken connection, no stream that was cut."""
    assert report["ok"] > 0, f"nothing was answered: {report}"
    assert report["errors"] == {}, f"{report['errors']} of {report['requests']} requests"
