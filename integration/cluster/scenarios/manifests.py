"""A real API server accepts every object that the charts render, custom resources of other operators included."""

import json
import os
import re

from kubernetes import run
from scenario import Skipped, scenario
from context import CHARTS, ENGINES, ROUTER

# The namespace of an object itself: references to others are indented deeper.
NAMESPACE = re.compile(r"^  namespace: (\S+)$", re.MULTILINE)
OWN = {"Deployment", "HorizontalPodAutoscaler", "Ingress", "NetworkPolicy", "PodDisruptionBudget", "Role", "Secret"}
FOREIGN = {"Certificate", "HTTPRoute", "Issuer", "PodMonitor", "PrometheusRule", "ScaledObject", "ServiceMonitor"}
# What gateways need that ask Hermes for endpoints.
GATEWAYS = {"BackendTLSPolicy", "BackendTrafficPolicy", "DestinationRule", "EnvoyExtensionPolicy", "GCPBackendPolicy", "Gateway",
            "HealthCheckPolicy", "InferencePool"}


@scenario
def every_object_that_the_charts_can_render_is_accepted_by_the_api_server(context):
    definitions = os.environ.get("HERMES_DEFINITIONS")
    if not definitions:
        raise Skipped("it would install other operators' CustomResourceDefinitions in a cluster that is not its own")
    run("kubectl", "apply", "--server-side", "--filename", definitions)
    run("kubectl", "wait", "--for=condition=Established", "--filename", definitions, "--timeout=30s")
    template = ("template", "trial")
    rendered = [context.cluster.helm(*template, str(chart), "--values", str(values)) for chart, values in cases()]
    for name in sorted({name for text in rendered for name in NAMESPACE.findall(text)}):
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        run("kubectl", "apply", "--filename=-", input=json.dumps(namespace))
    kinds = set()
    for text in rendered:
        accepted = run("kubectl", "apply", "--dry-run=server", "--output=json", "--filename=-", input=text)
        kinds |= {one["kind"] for one in json.loads(accepted)["items"]}
    context.figures.note("accepted by the API server", f"{len(rendered)} renderings, objects of {len(kinds)} kinds")
    wanted = OWN | FOREIGN | GATEWAYS
    assert wanted <= kinds, f"no rendered object has the kinds {wanted - kinds}"


def cases():
    """Each chart with each of the values that its tests render, and with the examples."""
    for chart in (CHARTS / ENGINES, CHARTS / ROUTER):
        for values in [*sorted(chart.glob("tests/*.values.yaml")), *sorted(CHARTS.glob("examples/*.yaml"))]:
            yield chart, values
