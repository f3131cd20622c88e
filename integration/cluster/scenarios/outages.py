"""Failures of Kubernetes: an API server that is down for a minute, and engines that are reported NotReady."""

import copy
import json
import os
import time

import install
from configuration import KUBELET
from figures import load_line, seconds
from kubernetes import name_of, run, until
from scenario import Skipped, scenario
from traffic import Load, assert_all_ok
from upgrades import Clients
from context import CONTROL_PLANE, DATA_PLANE, ENGINE, ROUTER

OUTAGE = 60.0
# Limit from the API server's return, or from a later change, until the router has applied it.
RECOVERY = 5.0
# Kubernetes' controllers reconnect to a restarted API server within a minute, and nodes become ready after that.
KUBERNETES_RECOVERY = 180

SHORT = ("--workload", "chat", "--rate", "5", "--poisson", "--connections", "100", "--tokens", "5",
         "--prompt-bytes", "400")


@scenario
def engines_stay_in_use_when_kubernetes_reports_all_of_them_not_ready(context):
    cluster = context.cluster
    clients = Clients(context, "doubt")
    replicas = Replicas(context)

    def mark_not_ready():
        # As the node controller does with the pods of a node without heartbeats. The kubelet corrects the status at its
        # next sync, which may fall between the two patches.
        for pod in cluster.ready_pods(context.engines):
            status = {"conditions": [{"type": "Ready", "status": "False"}]}
            cluster.patch("pods", name_of(pod), {"status": status}, below="status", how="strategic-merge-patch")
        return replicas.all("discovery_panic_endpoints") == [2, 2]

    until("the router is in panic mode", mark_not_ready, RECOVERY, every=0.05)
    until("the kubelet reports them ready", lambda: len(cluster.ready_pods(context.engines)) == 2, 90)
    replicas.until_not_in_panic_mode(RECOVERY)
    clients.assert_unaffected_by("both engines called not ready")


@scenario
def an_api_server_outage_of_a_minute_fails_no_request_and_discovery_recovers(context):
    if not context.own:
        raise Skipped("the API server of another machine's cluster cannot be stopped by this script")
    cluster = context.cluster
    cluster.scale(ENGINE, 2)
    cluster.await_pods(context.engines, 2)
    replicas = Replicas(context)
    # After its return Kubernetes has no heartbeats of its nodes and removes all pods from all Services until then.
    # So clients of the router address its pods, as ingresses do; the load on the Service is for comparison.
    proxies = [pod["status"]["podIP"] for pod in cluster.ready_pods(context.data_plane)]
    loads = [Load(context, f"outage-{n}", *SHORT, target=f"http://{ip}:8000") for n, ip in enumerate(proxies)]
    service = Load(context, "outage-service", *SHORT)
    old = {name_of(pod) for pod in cluster.list("pods", context.engines)}
    select_pods(context, replicas)
    back = outage(context)
    context.figures.note("API server away for 60 s: from its return to a deleted pod being unknown to the router",
                       seconds(removed(context, replicas) - back))
    ready, known = replaced(context, replicas, old)
    context.figures.note("… to a new pod being ready, and from then to the router knowing it",
                       f"{seconds(ready - back)}, {seconds(known - ready)}")
    replicas.until_not_in_panic_mode(60)

    reports = [load.stop() for load in loads]
    through = service.stop()
    for report in reports:
        context.figures.note("… requests to one proxy", load_line(report))
    context.figures.note("… requests to the Service, which Kubernetes may empty", load_line(through))
    for report in reports:
        assert_all_ok(report)
    assert set(through["errors"]) <= {"connect"}, f"a request that reached a proxy failed: {through['errors']}"
    # Later scenarios need what Kubernetes' controllers and CoreDNS restore last.
    until("Services list exactly the ready pods", lambda: services_are_current(context), 300, every=1)
    until("clients inside the cluster reach the router by its name", lambda: is_reachable(context), KUBERNETES_RECOVERY)
    context.figures.note("… to Services and names being right again", seconds(time.monotonic() - back))


def select_pods(context, replicas):
    """Changes discovery from `services` to `pods`, under load. EndpointSlices are written by Kubernetes' controllers,
    which back off for up to a minute after an outage of the API server."""
    values = copy.deepcopy(install.ROUTER_VALUES)
    selection = values["config"]["pools"][0]["kubernetes"]
    selection["pods"] = selection.pop("services")
    before = replicas.all("config_revision")
    context.install(ROUTER, values, "--force-conflicts")
    until("the new selection is in use",
          lambda: replicas.all("config_revision") == [one + 1 for one in before], KUBELET)
    until("engines are listed by it", lambda: replicas.all("discovery_synced") == [1, 1], RECOVERY)


class Replicas:
    """The replicas of the control plane, listed before the outage: during it Kubernetes reports them not ready."""

    def __init__(self, context):
        self.cluster = context.cluster
        self.pods = context.control_plane_pods()

    def have_endpoint(self, engine):
        """For each replica, whether its snapshot contains the engine."""
        pages = [json.loads(self.cluster.inside(pod, 7071, "/debug/snapshot")) for pod in self.pods]
        names = [{one["name"] for pool in page["snapshot"]["pools"] for one in pool["endpoints"]} for page in pages]
        return [f"{self.cluster.namespace}/{engine}" in known for known in names]

    def all(self, metric):
        """The value of a metric at each replica."""
        return [self.cluster.metrics(pod, 7071).sum(f"hermes_control_plane_{metric}") for pod in self.pods]

    def until_not_in_panic_mode(self, seconds):
        until("the router has left panic mode", lambda: not any(self.all("discovery_panic_endpoints")), seconds)


def outage(context):
    """Kills the API server and starts it a minute later. Returns the time of its first response."""
    component = os.path.join(os.environ["HERMES_MACHINE"], "component")
    run(component, "stop", "apiserver")
    time.sleep(OUTAGE)
    begun = time.monotonic()
    run(component, "start", "apiserver")
    until("the API server is back", context.cluster.is_up, 60)
    context.figures.note("API server: from its start to ready", seconds(time.monotonic() - begun))
    return time.monotonic()


def removed(context, replicas):
    """Deletes an engine as soon as the API server accepts it. Returns the time when no replica listed the engine.

    This needs none of Kubernetes' controllers, so it measures the recovery of the router alone.
    """
    victim = name_of(context.cluster.pods(context.engines)[0])
    assert all(replicas.have_endpoint(victim)), "removed during the outage"
    until("a deletion is accepted", lambda: context.cluster.delete("pods", victim), 30)
    until("the deleted engine is removed", lambda: not any(replicas.have_endpoint(victim)), RECOVERY, every=0.02)
    return time.monotonic()


def services_are_current(context):
    """Whether the EndpointSlices of all three Services list the ready pods and no others."""
    services = {DATA_PLANE: context.data_plane, CONTROL_PLANE: context.control_plane, ENGINE: context.engines}
    return all(
        addresses_of(context.cluster, service)
        == {pod["status"]["podIP"] for pod in context.cluster.ready_pods(labels)}
        for service, labels in services.items()
    )


def addresses_of(cluster, service):
    slices = cluster.list("endpointslices", f"kubernetes.io/service-name={service}")
    endpoints = [endpoint for one in slices for endpoint in one["endpoints"] or []]
    return {endpoint["addresses"][0] for endpoint in endpoints if endpoint["conditions"].get("ready")}


def is_reachable(context):
    report = Load(context, "recovery", "--workload", "chat", "--connections", "4", "--duration", "1").report(seconds=60)
    return report["ok"] > 0 and not report["errors"]


def replaced(context, replicas, old):
    """Waits for the replacement of the deleted engine. Returns when it was ready and when all replicas listed it."""
    def fresh():
        return [name_of(pod) for pod in context.cluster.ready_pods(context.engines) if name_of(pod) not in old]

    [engine] = until("Kubernetes starts another engine", fresh, KUBERNETES_RECOVERY, every=0.05)
    ready = time.monotonic()
    until("the new engine is listed", lambda: all(replicas.have_endpoint(engine)), RECOVERY, every=0.02)
    return ready, time.monotonic()
