"""The guide to prefix-aware routing by an InferencePool, with its own manifests (../guide) in its own namespace.

Of what it prints, the engines' image, command and resources are replaced by those of simulated engines; names, labels and
ports stay. Its second round of a chat has to go where the first one is cached, and a page has to show that.
"""

import copy
import http.client
import json
import os
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import install
from context import REPOSITORY, ROUTER, Context
from inference_pools import definitions_of_the_extension
from kubernetes import Cluster, run, until
from scenario import Skipped, scenario

GUIDE = REPOSITORY / "integration/cluster/guide"
ENVOY = REPOSITORY / "integration/gateways/envoy.yaml"
NAMESPACE = "default"
RELEASE = f"guide-{ROUTER}"
POOL = f"{NAMESPACE}/vllm-qwen-pool"
# The Service that the pool refers to as its picker, and the port that clients of the guide connect to.
PICKER, PORT = "inference-gateway-ext-proc", 8081
# Probes of the guide's engines begin after 30 s, and are 30 s apart.
ENGINES_READY, SOON = 120, 30


@scenario
def the_guide_to_prefix_aware_routing_works_with_envoy_as_the_gateway(context):
    if "HERMES_ENVOY" not in os.environ:
        raise Skipped("the image with Envoy is made for a cluster of its own only")
    with ExitStack() as stack:
        guide = stack.enter_context(installed(context, picker_values()))
        guide.apply(*envoy(guide.image("envoy")))
        stack.callback(guide.delete, "deployment,service,configmap", "envoy")
        guide.kubectl("rollout", "status", "deployment/envoy", "--timeout=60s")
        address = guide.kubectl("get", "service/envoy", "--output=jsonpath={.spec.clusterIP}")
        second_round_goes_where_the_first_is_cached(guide, address)


@scenario
def the_guide_to_prefix_aware_routing_works_with_hermes_as_the_gateway(context):
    manifest = f"--filename={GUIDE / 'inference-gateway.yaml'}"
    with ExitStack() as stack:
        # The guide's policy is one of Envoy Gateway. It is stored here, and nothing reads it.
        kinds = ("gateway.networking.k8s.io_*.yaml", "gateway.envoyproxy.io_*.yaml")
        guide = stack.enter_context(installed(context, gateway_values(), *kinds))
        guide.kubectl("apply", manifest)
        stack.callback(guide.kubectl, "delete", manifest, "--ignore-not-found")
        look = ("get", "gateway/qwen-inference-gateway", "--output=jsonpath={.status.addresses[0].value}")
        address = until("the gateway has an address", lambda: guide.kubectl(*look), SOON)
        second_round_goes_where_the_first_is_cached(guide, address)
        requests_to_the_other_port_are_balanced(guide, address)

# === What is installed ===


class Guide(Context):
    """The router of the guide, and its objects."""

    def __init__(self, context):
        super().__init__(Cluster(context.cluster.port, NAMESPACE), context.figures)
        self.kubectl = self.cluster.kubectl

    def apply(self, *things):
        for thing in things:
            self.kubectl("apply", "--filename=-", input=thing if isinstance(thing, str) else json.dumps(thing))

    def delete(self, kinds, name):
        self.kubectl("delete", kinds, name, "--ignore-not-found", "--wait=false")

    def proxy(self):
        """The one pod of the data plane."""
        [pod] = self.cluster.ready_pods(f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=data-plane")
        return pod


@contextmanager
def installed(context, values, *kinds):
    """The engines, the pool and the model of the guide, and a router for them. `kinds` are more files of definitions."""
    guide = Guide(context)
    definitions = definitions_of_the_extension()
    folder = Path(os.environ["HERMES_DEFINITIONS"])
    definitions += [f"--filename={file}" for pattern in kinds for file in sorted(folder.glob(pattern))]
    run("kubectl", "apply", "--server-side", *definitions)
    run("kubectl", "wait", "--for=condition=Established", *definitions, "--timeout=30s")
    try:
        for thing in engines(guide.image("hermes")):
            guide.apply(thing)
        guide.kubectl("apply", f"--filename={GUIDE / 'inference-pool.yaml'}")
        guide.install(RELEASE, values, chart=ROUTER)
        guide.rolled_out("qwen", seconds=ENGINES_READY)
        guide.rolled_out(f"{RELEASE}-control-plane", f"{RELEASE}-data-plane")
        yield guide
    finally:
        guide.cluster.helm("uninstall", RELEASE, "--ignore-not-found", "--wait=false")
        for file in ("vllm-service.yaml", "inference-pool.yaml"):
            guide.kubectl("delete", f"--filename={GUIDE / file}", "--ignore-not-found", "--wait=false")


def engines(image):
    """The objects of vllm-service.yaml, with simulated engines for real ones."""
    text = run("kubectl", "create", "--dry-run=client", "--output=json", f"--filename={GUIDE / 'vllm-service.yaml'}")
    deployment, service = documents(text)
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    container["image"] = image
    container["command"] = [
        "/usr/local/bin/hermes", "engine", "--listen", "0.0.0.0:8000", "--model", "/model/qwen", "--block-size", "16",
        "--lora", "travel-helper-v1", "--lora", "travel-helper-v2",
    ]
    del container["resources"]
    return deployment, service


def documents(text):
    """JSON documents that follow each other."""
    decoder, found = json.JSONDecoder(), []
    while text.strip():
        document, end = decoder.raw_decode(text.lstrip())
        found.append(document)
        text = text.lstrip()[end:]
    return found


def router_values():
    values = copy.deepcopy(install.ROUTER_VALUES)
    values["config"] = {"inferencePools": {"pickers": [PICKER], "policy": {"metrics": {"interval": "500ms"}}}}
    values["controlPlane"]["replicas"] = values["dataPlane"]["replicas"] = 1
    return values


def picker_values():
    values = router_values()
    values["endpointPicker"] = {"enabled": True, "tls": {"enabled": False}, "service": {"name": PICKER}}
    return values


def gateway_values():
    """The guide's GatewayClass is of this router, as the name of its controller says."""
    values = router_values()
    values["gatewayApi"] = {
        "enabled": True, "controllerName": "gateway.envoyproxy.io/gatewayclass-controller", "service": {"type": "ClusterIP"},
    }
    return values


def envoy(image):
    """Envoy with the file that users begin with, but for its addresses."""
    changes = {
        "{address: 127.0.0.1, port_value: 8080}": f"{{address: 0.0.0.0, port_value: {PORT}}}",
        "{address: 127.0.0.1, port_value: 9002}": f"{{address: {PICKER}.{NAMESPACE}.svc.cluster.local, port_value: 9002}}",
        "type: STATIC": "type: STRICT_DNS",
    }
    configuration = ENVOY.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert configuration.count(old) == 1, f"{ENVOY} has not one {old}"
        configuration = configuration.replace(old, new)
    labels = {"app": "envoy"}
    volume = {"name": "configuration", "configMap": {"name": "envoy"}}
    container = {
        "name": "envoy", "image": image, "imagePullPolicy": "IfNotPresent",
        "args": ["--config-path", "/etc/envoy/envoy.yaml"],
        "volumeMounts": [{"name": "configuration", "mountPath": "/etc/envoy"}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    }
    return (
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "envoy"}, "data": {"envoy.yaml": configuration}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "envoy"}, "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container], "volumes": [volume]}},
        }},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "envoy"},
         "spec": {"selector": labels, "ports": [{"port": PORT}]}},
    )


# === What is claimed ===


def second_round_goes_where_the_first_is_cached(guide, address):
    """Sends both rounds as the guide does, and reads the proxy's pages."""
    with tempfile.TemporaryDirectory() as folder, records(guide.proxy()) as record:
        run("bash", str(GUIDE / "rounds.sh"), cwd=folder)
        chat = lambda name: sent(f"{address}:{PORT}", Path(folder) / name)
        until("the pool serves", lambda: chat("round1.txt"), SOON)
        first = record()
        expected = predicted(guide)
        usage = chat("round2.txt")
        second = record()
    assert second["pool"] == first["pool"] == POOL, (first, second)
    assert second["endpoint"] == first["endpoint"], f"round 1 is cached at {first}, and round 2 went to {second}"
    assert first["hash_ids"][0] == second["hash_ids"][0], (first, second)
    cached, length = second["cached_tokens"], second["input_length"]
    assert cached and usage["prompt_tokens_details"]["cached_tokens"] == cached, (usage, second)
    until("the match was expected before the request was sent", lambda: predicted(guide) > expected, 5)
    guide.figures.note("second round of the guide: tokens of the prompt that its server had cached",
                       f"{cached} of {length} ({cached / length:.0%})")


def requests_to_the_other_port_are_balanced(guide, address):
    """Port 8080 leads to the Service of the same engines: no prefix counts there."""
    with tempfile.TemporaryDirectory() as folder, records(guide.proxy()) as record:
        run("bash", str(GUIDE / "rounds.sh"), cwd=folder)
        assert until("the Service serves", lambda: sent(f"{address}:8080", Path(folder) / "round1.txt"), SOON)
        pool = record()["pool"]
    assert pool != POOL, f"the request to port 8080 went to the pool {pool}"


def sent(address, body):
    """Sends a body as the guide does. Returns the usage that the stream ends with, or nothing if the answer is no chat."""
    patient = ("--silent", "--show-error", "--max-time", "30", "--retry", "10", "--retry-delay", "1", "--retry-connrefused")
    output = run("curl", *patient, "-X", "POST", f"{address}/v1/chat/completions", "-H", "Content-Type: application/json",
                 "-d", f"@{body}")
    events = [line.removeprefix("data: ") for line in output.splitlines() if line.startswith("data: ")]
    if not events:
        return None
    assert events[-1] == "[DONE]", output
    return json.loads(events[-2])["usage"]


def predicted(guide):
    """Tokens that the proxy expected to be cached where it sent prompts to."""
    pod = guide.proxy()["metadata"]["name"]
    return guide.cluster.metrics(pod, 8001).sum("hermes_cache_prediction_tokens_total", kind="expected", pool=POOL)


@contextmanager
def records(pod):
    """Follows `/debug/records` of a proxy. Gives a function that returns the record of the next successful request."""
    connection = http.client.HTTPConnection(pod["status"]["podIP"], 8001, timeout=30)
    connection.request("GET", "/debug/records")
    lines = connection.getresponse()

    def successful():
        while True:
            record = json.loads(lines.readline())
            if record["outcome"] == "ok":
                return record

    try:
        yield successful
    finally:
        connection.close()
