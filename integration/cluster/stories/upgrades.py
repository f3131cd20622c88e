"""Both planes are replaced, rolled back and deleted under load, and no client notices.

Two loads run meanwhile: short answers, and streams of some seconds. A request that fails, a stream that is cut off, or
a connection that breaks is a failure of the story.
"""

import copy
import os
import signal
import time

import install
from figures import load_line, seconds
from kubernetes import name_of, run, until
from story import LeftOut, story
from traffic import Load, all_well
from world import ENGINE, PLANES, ROUTER


class Clients:
    """Short answers and long streams, from before something happens until after it."""

    def __init__(self, world, name):
        self.world = world
        world.cluster.scale(ENGINE, 2)
        world.cluster.await_pods(world.engines, 2)
        self.short = Load(world, f"{name}-short", "--workload", "chat", "--rate", "10", "--poisson",
                          "--connections", "100", "--tokens", "5", "--prompt-bytes", "400")
        self.long = Load(world, f"{name}-long", "--workload", "stream", "--connections", "4", "--tokens", "150",
                         "--prompt-bytes", "400")
        time.sleep(2)

    def saw_nothing_of(self, what, settle=2.0):
        time.sleep(settle)
        reports = {"short answers": self.short.enough(), "long streams": self.long.enough()}
        for kind, report in reports.items():
            self.world.figures.note(f"{what}: {kind}", load_line(report))
        for report in reports.values():
            all_well(report)


def annotated(text):
    """The values of the installation, with another annotation on every pod of both planes."""
    values = copy.deepcopy(install.ROUTER_VALUES)
    for plane in ("controlPlane", "dataPlane"):
        values[plane]["podAnnotations"] = {"trial": text}
    return values


@story
def an_upgrade_of_both_planes_and_its_rollback_cost_no_request(world):
    clients = Clients(world, "upgrade")
    begun = time.monotonic()
    world.install(ROUTER, annotated("new"))
    world.rolled_out(*PLANES)
    world.figures.note("rolling upgrade of both planes, 2 replicas each", seconds(time.monotonic() - begun))
    world.cluster.helm("rollback", ROUTER)
    world.rolled_out(*PLANES)
    clients.saw_nothing_of("upgrade and rollback")


@story
def deleting_a_pod_of_each_component_costs_no_request(world):
    clients = Clients(world, "delete")
    for labels, count in ((world.data_plane, 2), (world.control_plane, 2), (world.engines, 2)):
        pod = name_of(world.cluster.ready_pods(labels)[0])
        world.cluster.delete("pods", pod)
        until(f"{pod} is replaced", lambda: replaced(world, labels, pod, count), 60)
    clients.saw_nothing_of("pods deleted, one of each component")


def replaced(world, labels, pod, count):
    ready = [name_of(one) for one in world.cluster.ready_pods(labels)]
    return len(ready) == count and pod not in ready


@story
def killing_the_process_of_each_control_plane_replica_costs_no_request(world):
    if not world.own:
        raise LeftOut("processes of another machine's containers cannot be killed from here")
    clients = Clients(world, "kill")
    for pod in world.cluster.ready_pods(world.control_plane):
        status = pod["status"]["containerStatuses"][0]
        os.kill(process_of(status["containerID"].removeprefix("containerd://")), signal.SIGKILL)
        until(f"{name_of(pod)} runs again", lambda: restarted(world, name_of(pod), status["restartCount"]), 60)
    clients.saw_nothing_of("control plane killed with SIGKILL, one replica after the other")


def process_of(container):
    """The process id of a container's first process, as this machine's containerd knows it."""
    tasks = run("ctr", "--address", os.environ["HERMES_CONTAINERD"], "--namespace", "k8s.io", "tasks", "list")
    ids = {line.split()[0]: int(line.split()[1]) for line in tasks.splitlines()[1:]}
    return ids[container]


def restarted(world, name, count):
    pod = world.cluster.get("pods", name)
    status = pod["status"]["containerStatuses"][0]
    return status["restartCount"] > count and status["ready"]
