"""Traffic from inside the cluster: `hermes load` in a pod, and its report."""

import json

from kubernetes import is_ready, until

# What the Pod Security standard `restricted` requires of every pod.
POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


class Load:
    """A load that runs until it is stopped. Requests in flight at that moment are completed."""

    # Longer than any scenario, shorter than the limit of the whole run.
    LONGEST = 900

    def __init__(self, context, name, *flags, labels=None, target=None):
        self.cluster = context.cluster
        self.name = f"load-{name}"
        arguments = ["load", "--json", "--target", target or context.entry, "--model", context.model]
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
                    "image": context.image("hermes"),
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

    def stop(self):
        """Stops the load gracefully. Returns the report of `hermes load --json`."""
        # Deleting the pod would delete its log. A pod past its deadline gets SIGTERM and is kept.
        self.cluster.patch("pods", self.name, {"spec": {"activeDeadlineSeconds": 1}})
        return self.report(seconds=100)

    def report(self, seconds):
        """Waits for the end of the load. Returns its report."""
        until(f"{self.name} ends", self.is_over, seconds, every=0.3)
        report = json.loads(self.cluster.log(self.name).strip().splitlines()[-1])
        self.cluster.delete("pods", self.name, gracePeriodSeconds=0)
        return report


def assert_all_ok(report):
    """Fails unless every request succeeded: no error, no broken connection, no truncated stream."""
    assert report["ok"] > 0, f"no request succeeded: {report}"
    assert report["errors"] == {}, f"{report['errors']} of {report['requests']} requests"
