"""Kubernetes fails, and the router does not: its API server is away for a minute, or calls engines not ready."""

import copy
import json
import os
import time

import install
from configuration import KUBELET
from figures import load_line, seconds
from kubernetes import name_of, run, until
from story import LeftOut, story
from traffic import Load, all_well
from upgrades import Clients
from world import ENGINE, ROUTER

OUTAGE = 60.0
# From the API server's return, or from a later change, until the router knows of it.
RECOVERY = 5.0
# Kubernetes' own controllers come back to an API server that was away within a minute, and nodes after them.
KUBERNETES_RECOVERY = 180

SHORT = ("--workload", "chat", "--rate", "5", "--poisson", "--connections", "100", "--tokens", "5",
         "--prompt-bytes", "400")


@story
def engines_that_kubernetes_calls_not_ready_all_at_once_still_serve(world):
    cluster = world.cluster
    clients = Clients(world, "doubt")
    replicas = Replicas(world)

    def doubted():
        # As the node controller does with the pods of a node that it has not heard of. The kubelet puts it right in its
        # next round, which may come between two of them.
        for pod in cluster.ready_pods(world.engines):
            status = {"conditions": [{"type": "Ready", "status": "False"}]}
            cluster.patch("pods", name_of(pod), {"status": status}, below="status", how="strategic-merge-patch")
        return replicas.all("discovery_panic_endpoints") == [2, 2]

    until("the router doubts it", doubted, RECOVERY, every=0.05)
    until("the kubelet says that they are ready", lambda: len(cluster.ready_pods(world.engines)) == 2, 90)
    replicas.until_nothing_is_doubted(RECOVERY)
    clients.saw_nothing_of("both engines called not ready")


@story
def a_minute_without_the_api_server_costs_no_request_and_discovery_is_right_soon_after(world):
    if not world.own:
        raise LeftOut("the API server of another machine's cluster cannot be stopped from here")
    cluster = world.cluster
    cluster.scale(ENGINE, 2)
    cluster.await_pods(world.engines, 2)
    replicas = Replicas(world)
    # Kubernetes comes back, has not heard of its nodes, and takes all pods out of all Services until it has. So clients
    # of the router go to its pods, as ingresses do, and those of the Service are for comparison.
    proxies = [pod["status"]["podIP"] for pod in cluster.ready_pods(world.data_plane)]
    loads = [Load(world, f"outage-{n}", *SHORT, target=f"http://{ip}:8000") for n, ip in enumerate(proxies)]
    service = Load(world, "outage-service", *SHORT)
    old = {name_of(pod) for pod in cluster.list("pods", world.engines)}
    look_for_pods(world, replicas)
    back = outage(world)
    world.figures.note("API server away for 60 s: from its return to a deleted pod being unknown to the router",
                       seconds(forgotten(world, replicas) - back))
    ready, known = learned(world, replicas, old)
    world.figures.note("… to a new pod being ready, and from then to the router knowing it",
                       f"{seconds(ready - back)}, {seconds(known - ready)}")
    replicas.until_nothing_is_doubted(60)

    reports = [load.enough() for load in loads]
    through = service.enough()
    for report in reports:
        world.figures.note("… requests to one proxy", load_line(report))
    world.figures.note("… requests to the Service, which Kubernetes may empty", load_line(through))
    for report in reports:
        all_well(report)
    assert set(through["errors"]) <= {"connect"}, f"a request that reached a proxy failed: {through['errors']}"


def look_for_pods(world, replicas):
    """Finds engines by their pods, under load. Those of Services come late: Kubernetes' controllers write EndpointSlices,
    and sleep for up to a minute after an API server was away."""
    values = copy.deepcopy(install.ROUTER_VALUES)
    selection = values["config"]["pools"][0]["kubernetes"]
    selection["pods"] = selection.pop("services")
    before = replicas.all("config_revision")
    world.install(ROUTER, values, "--force-conflicts")
    until("the new selection is in force", lambda: replicas.all("config_revision") == [one + 1 for one in before], KUBELET)
    until("engines are found by it", lambda: replicas.all("discovery_synced") == [1, 1], RECOVERY)


class Replicas:
    """The replicas of the control plane as they are now: in an outage Kubernetes calls them not ready."""

    def __init__(self, world):
        self.cluster = world.cluster
        self.pods = world.control_plane_pods()

    def know(self, engine):
        """For each replica, whether it knows the engine."""
        pages = [json.loads(self.cluster.inside(pod, 7071, "/debug/snapshot")) for pod in self.pods]
        names = [{one["name"] for pool in page["snapshot"]["pools"] for one in pool["endpoints"]} for page in pages]
        return [f"{self.cluster.namespace}/{engine}" in known for known in names]

    def all(self, metric):
        """A metric of each replica."""
        return [self.cluster.metrics(pod, 7071).sum(f"hermes_control_plane_{metric}") for pod in self.pods]

    def until_nothing_is_doubted(self, seconds):
        until("the router believes Kubernetes again", lambda: not any(self.all("discovery_panic_endpoints")), seconds)


def outage(world):
    """The API server is killed, and started a minute later; when it answered again."""
    component = os.path.join(os.environ["HERMES_MACHINE"], "component")
    run(component, "stop", "apiserver")
    time.sleep(OUTAGE)
    begun = time.monotonic()
    run(component, "start", "apiserver")
    until("the API server is back", world.cluster.is_up, 60)
    world.figures.note("API server: from its start to ready", seconds(time.monotonic() - begun))
    return time.monotonic()


def forgotten(world, replicas):
    """One of the engines is deleted as soon as that is possible; when the router did not know it any more.

    That needs none of Kubernetes' controllers: it tells how soon the router itself is back.
    """
    victim = name_of(world.cluster.pods(world.engines)[0])
    assert all(replicas.know(victim)), "forgotten in the outage"
    until("a deletion is taken", lambda: world.cluster.delete("pods", victim), 30)
    until("the leaving engine is unknown", lambda: not any(replicas.know(victim)), RECOVERY, every=0.02)
    return time.monotonic()


def learned(world, replicas, old):
    """Waits for the engine that takes the deleted one's place; when it was ready, and when the router knew it."""
    def fresh():
        return [name_of(pod) for pod in world.cluster.ready_pods(world.engines) if name_of(pod) not in old]

    [engine] = until("Kubernetes starts another engine", fresh, KUBERNETES_RECOVERY, every=0.05)
    ready = time.monotonic()
    until("the new engine is known", lambda: all(replicas.know(engine)), RECOVERY, every=0.02)
    return ready, time.monotonic()
