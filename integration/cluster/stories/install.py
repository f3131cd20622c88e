"""From an empty namespace to the first answer, with two charts."""

import json
import subprocess
import time

from figures import seconds
from kubernetes import run, until
from story import story
from world import ENGINE, ENGINES, PLANES, ROUTER

# Two simulated engines, and otherwise what the charts say by themselves: mTLS between the planes, policies for the
# network, budgets for disruption. Requests for CPU are small, so that a machine of two cores holds everything.
ENGINE_VALUES = {"engines": [{
    "name": "sim", "engine": "simulated", "model": "sim", "replicas": 2,
    "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
}]}
# The engines of that entry, and nothing else that their chart brings.
SIMULATED = {"app.kubernetes.io/instance": ENGINES, "app.kubernetes.io/component": "sim"}
ROUTER_VALUES = {
    "config": {
        "exposeEndpoint": True,
        "pools": [{
            "name": "sim",
            "kubernetes": {"services": SIMULATED, "port": 8000},
            "metrics": {"interval": "500ms"},
        }],
    },
    "controlPlane": {"podAnnotations": {}, "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}},
    "dataPlane": {
        "podAnnotations": {},
        "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
        "autoscaling": {"enabled": False},
    },
}


@story
def two_charts_make_a_working_fleet_in_a_namespace_that_enforces_the_restricted_standard(world):
    cluster = world.cluster
    subprocess.run(["kubectl", "create", "namespace", cluster.namespace], capture_output=True, timeout=30)
    enforced = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    run("kubectl", "label", "--overwrite", "namespace", cluster.namespace, *enforced)

    begun = time.monotonic()
    # What an earlier trial left behind, scaled or edited by hand, is taken over.
    world.install(ENGINES, ENGINE_VALUES, "--force-conflicts")
    world.install(ROUTER, ROUTER_VALUES, "--force-conflicts")
    answer = until("the first chat answers", lambda: first_answer(world), 120, every=0.05)
    world.figures.note("from `helm install` of both charts to the first answer", seconds(time.monotonic() - begun))
    assert answer["choices"][0]["message"]["content"], answer
    world.rolled_out(ENGINE, *PLANES)


def first_answer(world):
    status, body = world.chat()
    return status == 200 and json.loads(body)


@story
def a_stream_arrives_in_events_and_ends_with_done(world):
    status, body = world.chat(stream=True)
    events = [line for line in body.splitlines() if line.startswith("data: ")]
    assert status == 200 and len(events) > 3 and events[-1] == "data: [DONE]", body


@story
def the_charts_own_tests_are_green(world):
    for release in (ENGINES, ROUTER):
        world.cluster.helm("test", release, "--timeout", "90s")


@story
def both_planes_say_that_they_are_ready(world):
    for pods, port in ((world.control_plane_pods(), 7071), (world.data_plane_pods(), 8001)):
        assert len(pods) == 2, pods
        for pod in pods:
            world.cluster.inside(pod, port, "/readyz")
