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


# Seconds between the deaths of the two replicas. A proxy follows the survivor after about a second; with 0 it has none.
APART = (0, 1, 2)

# A container that dies again within ten minutes is started again after 10 s, then 20 s, then 40 s.
RESTART = 120


@scenario
def killing_both_control_plane_replicas_fails_no_request(context):
    if not context.own:
        raise Skipped("container processes of a remote cluster cannot be killed by this script")
    clients = Clients(context, "kill")
    for pause in APART:
        kill_both(context, pause)
    clients.assert_unaffected_by("both control-plane processes killed with SIGKILL, 0, 1 and 2 s apart")


def kill_both(context, pause):
    """Kills the process of both replicas, `pause` seconds apart, and waits until both are ready again."""
    pods = context.cluster.ready_pods(context.control_plane)
    statuses = {name_of(pod): pod["status"]["containerStatuses"][0] for pod in pods}
    # Looking a process up takes time, so that is done before.
    first, second = [process_of(one["containerID"].removeprefix("containerd://")) for one in statuses.values()]
    os.kill(first, signal.SIGKILL)
    time.sleep(pause)
    os.kill(second, signal.SIGKILL)
    for name, status in statuses.items():
        until(f"{name} runs again", lambda: restarted(context, name, status["restartCount"]), RESTART)


def process_of(container):
    """The process id of a container's first process, from this machine's containerd."""
    tasks = run("ctr", "--address", os.environ["HERMES_CONTAINERD"], "--namespace", "k8s.io", "tasks", "list")
    ids = {line.split()[0]: int(line.split()[1]) for line in tasks.splitlines()[1:]}
    return ids[container]


def restarted(context, name, count):
    pod = context.cluster.get("pods", name)
    status = pod["status"]["containerStatuses"][0]
    return status["restartCount"] > count and status["ready"]
