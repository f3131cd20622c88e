"""Both planes are upgraded, rolled back, deleted and killed under load without failed requests.

Two loads run meanwhile: short responses, and streams of a few seconds. A failed request, a truncated stream or a broken
connection fails the scenario.
"""

import copy
import os
import signal
import time

import install
from figures import load_line, seconds
from kubernetes import name_of, run, until
from scenario import Skipped, scenario
from traffic import Load, assert_all_ok
from context import ENGINE, PLANES, ROUTER


class Clients:
    """Two loads, short responses and long streams, that run from before a disruption until after it."""

    def __init__(self, context, name):
        self.context = context
        context.cluster.scale(ENGINE, 2)
        context.cluster.await_pods(context.engines, 2)
        self.short = Load(context, f"{name}-short", "--workload", "chat", "--rate", "10", "--poisson",
                          "--connections", "100", "--tokens", "5", "--prompt-bytes", "400")
        self.long = Load(context, f"{name}-long", "--workload", "stream", "--connections", "4", "--tokens", "150",
                         "--prompt-bytes", "400")
        time.sleep(2)

    def assert_unaffected_by(self, what, settle=2.0):
        time.sleep(settle)
        reports = {"short answers": self.short.stop(), "long streams": self.long.stop()}
        for kind, report in reports.items():
            self.context.figures.note(f"{what}: {kind}", load_line(report))
        for report in reports.values():
            assert_all_ok(report)


def annotated(text):
    """The values of the installation, with another annotation on every pod of both planes."""
    values = copy.deepcopy(install.ROUTER_VALUES)
    for plane in ("controlPlane", "dataPlane"):
        values[plane]["podAnnotations"] = {"trial": text}
    return values


@scenario
def upgrade_and_rollback_of_both_planes_fail_no_request(context):
    clients = Clients(context, "upgrade")
    begun = time.monotonic()
    context.install(ROUTER, annotated("new"))
    context.rolled_out(*PLANES)
    context.figures.note("rolling upgrade of both planes, 2 replicas each", seconds(time.monotonic() - begun))
    context.cluster.helm("rollback", ROUTER)
    context.rolled_out(*PLANES)
    clients.assert_unaffected_by("upgrade and rollback")


@scenario
def deleting_a_pod_of_each_component_fails_no_request(context):
    clients = Clients(context, "delete")
    for labels, count in ((context.data_plane, 2), (context.control_plane, 2), (context.engines, 2)):
        pod = name_of(context.cluster.ready_pods(labels)[0])
        context.cluster.delete("pods", pod)
        until(f"{pod} is replaced", lambda: replaced(context, labels, pod, count), 60)
    clients.assert_unaffected_by("pods deleted, one of each component")


def replaced(context, labels, pod, count):
    ready = [name_of(one) for one in context.cluster.ready_pods(labels)]
    return len(ready) == count and pod not in ready


@scenario
def killing_each_control_plane_replica_fails_no_request(context):
    if not context.own:
        raise Skipped("container processes of a remote cluster cannot be killed by this script")
    clients = Clients(context, "kill")
    for pod in context.cluster.ready_pods(context.control_plane):
        status = pod["status"]["containerStatuses"][0]
        os.kill(process_of(status["containerID"].removeprefix("containerd://")), signal.SIGKILL)
        until(f"{name_of(pod)} runs again", lambda: restarted(context, name_of(pod), status["restartCount"]), 60)
    clients.assert_unaffected_by("control plane killed with SIGKILL, one replica after the other")


def process_of(container):
    """The process id of a container's first process, from this machine's containerd."""
    tasks = run("ctr", "--address", os.environ["HERMES_CONTAINERD"], "--namespace", "k8s.io", "tasks", "list")
    ids = {line.split()[0]: int(line.split()[1]) for line in tasks.splitlines()[1:]}
    return ids[container]


def restarted(context, name, count):
    pod = context.cluster.get("pods", name)
    status = pod["status"]["containerStatuses"][0]
    return status["restartCount"] > count and status["ready"]
