"""Installation of both charts, from an empty namespace to the first response."""

import json
import subprocess
import time

from figures import seconds
from kubernetes import run, until
from scenario import scenario
from context import ENGINE, ENGINES, PLANES, ROUTER

# Two simulated engines, and otherwise the charts' defaults: mTLS between the planes, NetworkPolicies,
# PodDisruptionBudgets. CPU requests are small, so that all pods fit on two cores.
ENGINE_VALUES = {"engines": [{
    "name": "sim", "engine": "simulated", "model": "sim", "replicas": 2,
    "resources": {"requests": {"cpu": "20m", "memory": "32Mi"}},
}]}
# Labels of the Services of these engines, without the chart's other Services.
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


@scenario
def both_charts_serve_requests_in_a_namespace_that_enforces_the_restricted_standard(context):
    cluster = context.cluster
    subprocess.run(["kubectl", "create", "namespace", cluster.namespace], capture_output=True, timeout=30)
    enforced = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    run("kubectl", "label", "--overwrite", "namespace", cluster.namespace, *enforced)

    begun = time.monotonic()
    # Takes over fields that an earlier run scaled or edited by hand.
    context.install(ENGINES, ENGINE_VALUES, "--force-conflicts")
    context.install(ROUTER, ROUTER_VALUES, "--force-conflicts")
    answer = until("the first chat answers", lambda: first_answer(context), 120, every=0.05)
    context.figures.note("from `helm install` of both charts to the first answer", seconds(time.monotonic() - begun))
    assert answer["choices"][0]["message"]["content"], answer
    context.rolled_out(ENGINE, *PLANES)


def first_answer(context):
    status, body = context.chat()
    return status == 200 and json.loads(body)


@scenario
def a_streamed_chat_arrives_in_several_events_and_ends_with_done(context):
    status, body = context.chat(stream=True)
    events = [line for line in body.splitlines() if line.startswith("data: ")]
    assert status == 200 and len(events) > 3 and events[-1] == "data: [DONE]", body


@scenario
def helm_test_passes_for_both_charts(context):
    for release in (ENGINES, ROUTER):
        context.cluster.helm("test", release, "--timeout", "90s")


@scenario
def all_pods_of_both_planes_are_ready(context):
    for pods, port in ((context.control_plane_pods(), 7071), (context.data_plane_pods(), 8001)):
        assert len(pods) == 2, pods
        for pod in pods:
            context.cluster.inside(pod, port, "/readyz")
