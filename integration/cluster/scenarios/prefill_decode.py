"""Prefill and decode engines are scaled 2P2D → 4P1D → 1P3D and upgraded under load, without a failed request or a broken
handoff."""

import copy
import time

import install
from context import ENGINES, ROUTER
from figures import load_line, seconds
from kubernetes import Metrics, name_of, until
from scenario import scenario
from traffic import Load, assert_all_ok

# Releases of their own, so that the pool of the other scenarios stays as it is.
PAIRED_ENGINES, PAIRED_ROUTER = f"pairs-{ENGINES}", f"pairs-{ROUTER}"
DATA_PLANE = f"{PAIRED_ROUTER}-data-plane"
# Seconds in which a change of the fleet is complete, and in which every engine of it has had requests.
SCALED, USED = 60, 30
ROLES = ("prefill", "decode")
OLD, NEW = "0.32.0", "0.33.0"
SMALL = {"resources": {"requests": {"cpu": "20m", "memory": "32Mi"}}}


def engine_values(version):
    """Two engines of each role, each fast enough for the whole load. They hand over only to engines of their version."""
    roles = {role: {"replicas": 2} for role in ROLES}
    return {"engines": [{
        "name": "sim", "engine": "simulated", "model": "sim", "args": ["--prefill-rate=16000"], **SMALL,
        "disaggregation": {"dialect": "vllm-nixl", "engineVersion": version, **roles},
    }]}


def router_values():
    """One process of each plane, and every request of more than a few tokens is split: by costs, engines that are fast
    enough would serve some alone."""
    values = copy.deepcopy(install.ROUTER_VALUES)
    values["config"]["pools"] = [{
        "name": "sim",
        "kubernetes": {"pods": labels(), "port": 8000},
        "strategy": "least-request",
        "metrics": {"interval": "500ms"},
        "disaggregation": {"dialect": "vllm-nixl", "minUncachedTokens": 0},
    }]
    values["controlPlane"]["replicas"] = values["dataPlane"]["replicas"] = 1
    return values


def labels(role=None):
    """Labels of the engines, or of those of a role."""
    component = {"app.kubernetes.io/component": f"sim-{role}"} if role else {}
    return {"app.kubernetes.io/instance": PAIRED_ENGINES, **component}


def selector(role=None):
    return ",".join(f"{name}={value}" for name, value in labels(role).items())


@scenario
def prefill_and_decode_engines_are_scaled_and_upgraded_under_load_without_a_failed_request(context):
    cluster = context.cluster
    try:
        context.install(PAIRED_ENGINES, engine_values(OLD), chart=ENGINES)
        context.install(PAIRED_ROUTER, router_values(), chart=ROUTER)
        context.rolled_out(*(f"{PAIRED_ENGINES}-sim-{role}" for role in ROLES), DATA_PLANE,
                           f"{PAIRED_ROUTER}-control-plane")
        report, seen = scaled_under_load(context)
    finally:
        for release in (PAIRED_ROUTER, PAIRED_ENGINES):
            cluster.helm("uninstall", release, "--ignore-not-found", "--wait=false")
    assert_all_ok(report)
    split = sum(engine.taken for engine in seen.values())
    context.figures.note("prefill and decode engines 2P2D → 4P1D → 1P3D → 2P2D of another version, under load",
                         f"{load_line(report)}; {split:.0f} split")
    broken = {name: engine.violations for name, engine in seen.items() if engine.violations}
    assert not broken, f"requests that broke the protocol of a pair: {broken}"
    assert split >= report["requests"] * 0.9, f"{split} of {report['requests']} requests were split"


def scaled_under_load(context):
    """Returns the load's report, and what was seen of each engine that has been there."""
    cluster, seen = context.cluster, {}
    load = Load(context, "pairs", "--workload", "stream", "--rate", "4", "--poisson", "--connections", "100",
                "--prompt-bytes", "8000", "--tokens", "20", target=f"http://{DATA_PLANE}.{cluster.namespace}:8000")
    for prefill, decode in ((2, 2), (4, 1), (1, 3)):
        begun = time.monotonic()
        cluster.scale(f"{PAIRED_ENGINES}-sim-prefill", prefill)
        cluster.scale(f"{PAIRED_ENGINES}-sim-decode", decode)
        wanted = {"prefill": prefill, "decode": decode}
        until(f"{prefill} prefill and {decode} decode engines", lambda: look(cluster, seen) == wanted, SCALED)
        complete = time.monotonic() - begun
        served = {name: engine.requests for name, engine in seen.items()}
        until("requests at every engine", lambda: all_used(cluster, seen, served), USED)
        context.figures.note(f"{prefill}P{decode}D: until it is the fleet, until every engine has had requests",
                             f"{seconds(complete)}, {seconds(time.monotonic() - begun)}")
    upgrade(context, seen)
    report = load.stop()
    look(cluster, seen)
    until("no engine has memory in use", lambda: idle(cluster), SCALED)
    return report, seen


def upgrade(context, seen):
    """A rolling upgrade of both roles at once, in which engines of two versions are there."""
    cluster, begun = context.cluster, time.monotonic()
    # The replicas were scaled by hand.
    context.install(PAIRED_ENGINES, engine_values(NEW), "--force-conflicts", chart=ENGINES)

    def is_over():
        counts = look(cluster, seen)
        pods = cluster.list("pods", selector())
        versions = {pod["metadata"]["annotations"]["hermes.ai/engine-version"] for pod in pods}
        return counts == {"prefill": 2, "decode": 2} and versions == {NEW}

    until("two engines of each role, of the new version", is_over, SCALED)
    served = {name: engine.requests for name, engine in seen.items()}
    until("requests at every engine", lambda: all_used(cluster, seen, served), USED)
    context.figures.note("1P3D → 2P2D of another version: until every engine has had requests",
                         seconds(time.monotonic() - begun))


class SeenEngine:
    """The counters of an engine, as they were read last."""

    def __init__(self, page):
        self.taken = page.sum("sim:pair_handoffs_total", outcome="taken")
        self.requests = page.sum("vllm:request_success_total")
        self.violations = {
            labels["kind"]: value
            for name, labels, value in page.samples
            if name == "sim:pair_violations_total" and value > 0
        }


def look(cluster, seen):
    """Reads the counters of every engine, also of those that end. Returns the number of pods by role."""
    counts = {}
    for role in ROLES:
        pods = cluster.list("pods", selector(role))
        counts[role] = len(pods)
        for pod in pods:
            try:
                seen[name_of(pod)] = SeenEngine(Metrics(cluster.inside(name_of(pod), 8000, "/metrics")))
            except Exception:
                counts[role] = None  # not there yet, or gone
    return counts


def all_used(cluster, seen, served):
    """Whether every engine that is there now has served a request since `served` was counted."""
    look(cluster, seen)
    pods = [name_of(pod) for pod in cluster.pods(selector())]
    return all(seen[name].requests > served.get(name, 0) for name in pods)


def idle(cluster):
    pages = [cluster.metrics(name_of(pod), 8000) for pod in cluster.pods(selector())]
    return all(page.sum("vllm:kv_cache_usage_perc") == 0 for page in pages)
