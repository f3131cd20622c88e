"""Objects of the Gateway API Inference Extension, with their real definitions, are pools of a router of their own."""

import copy
import json
import os
import time
from pathlib import Path

import install
from context import ROUTER
from figures import seconds
from kubernetes import run, service_path, until
from scenario import Skipped, scenario

OBJECTS_ROUTER = f"objects-{ROUTER}"
DATA_PLANE, CONTROL_PLANE = f"{OBJECTS_ROUTER}-data-plane", f"{OBJECTS_ROUTER}-control-plane"
EARLIER = "inference.networking.x-k8s.io"
# Seconds from an object to its effect: a definition that was absent is looked for every 15 s.
SOON, WHEN_INSTALLED = 20, 60

# The manifests of the guide to prefix-aware routing, but for the labels and the model of the engines here.
POOL = {
    "apiVersion": f"{EARLIER}/v1alpha2", "kind": "InferencePool",
    "metadata": {"name": "vllm-qwen-pool", "annotations": {f"{EARLIER}/routing-strategy": "PREFIX_CACHE"}},
    "spec": {"targetPortNumber": 8000, "selector": install.SIMULATED,
             "extensionRef": {"name": "inference-gateway-ext-proc"}},
}
MODEL = {
    "apiVersion": f"{EARLIER}/v1alpha2", "kind": "InferenceModel",
    "metadata": {"name": "inferencemodel-qwen"},
    "spec": {"modelName": "/model/qwen", "criticality": "Critical",
             "poolRef": {"group": EARLIER, "kind": "InferencePool", "name": "vllm-qwen-pool"},
             "targetModels": [{"name": "sim", "weight": 100}]},
}


def router_values():
    values = copy.deepcopy(install.ROUTER_VALUES)
    values["config"] = {"inferencePools": {"policy": {"metrics": {"interval": "500ms"}}}}
    values["controlPlane"]["replicas"], values["dataPlane"]["replicas"] = 2, 1
    return values


@scenario
def the_objects_of_the_guide_are_a_pool_that_serves_its_model(context):
    definitions = definitions_of_the_extension()
    cluster = context.cluster
    try:
        context.install(OBJECTS_ROUTER, router_values(), chart=ROUTER)
        context.rolled_out(CONTROL_PLANE, DATA_PLANE)
        begun = time.monotonic()
        run("kubectl", "apply", "--server-side", *definitions)
        run("kubectl", "wait", "--for=condition=Established", *definitions, "--timeout=30s")
        for manifest in (POOL, MODEL):
            run("kubectl", "apply", f"--namespace={cluster.namespace}", "--filename=-", input=json.dumps(manifest))
        until("the model is served", lambda: chat(cluster)[0] == 200, WHEN_INSTALLED)
        context.figures.note("from the definitions of the Inference Extension to the first answer of an InferencePool",
                             seconds(time.monotonic() - begun))
        status, body = chat(cluster)
        assert json.loads(body)["model"] == "/model/qwen", body
        condition = until("the model has a condition", lambda: accepted(cluster), SOON)
        assert (condition["status"], condition["reason"]) == ("True", "Accepted"), condition
        run("kubectl", "delete", f"--namespace={cluster.namespace}", f"inferencepools.{EARLIER}", "vllm-qwen-pool")
        until("the pool is gone", lambda: chat(cluster)[0] == 404, SOON)
    finally:
        cluster.helm("uninstall", OBJECTS_ROUTER, "--ignore-not-found", "--wait=false")


def definitions_of_the_extension():
    """Flags that name the files."""
    folder = os.environ.get("HERMES_DEFINITIONS")
    if not folder:
        raise Skipped("it would install CustomResourceDefinitions in a cluster that is not its own")
    files = sorted(Path(folder).glob("inference.networking.*.yaml"))
    assert files, f"{folder} has no definitions of the Inference Extension"
    return [f"--filename={file}" for file in files]


def chat(cluster):
    """Asks for the model of the object. Returns status and body."""
    body = {"model": "/model/qwen", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    path = service_path(cluster, DATA_PLANE, 8000, "/v1/chat/completions")
    status, _, data = cluster.request("POST", path, body)
    return status, data.decode()


def accepted(cluster):
    """The condition of the model's object, once it has one."""
    path = f"/apis/{EARLIER}/v1alpha2/namespaces/{cluster.namespace}/inferencemodels/inferencemodel-qwen"
    conditions = cluster.ask("GET", path).get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == "Accepted"), None)
