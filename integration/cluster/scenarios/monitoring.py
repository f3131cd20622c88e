"""A real Prometheus discovers the pods by their annotations and has data for every alert and every panel."""

import copy
import json
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import install
from local_process import document, start
from configuration import KUBELET, edit
from kubernetes import until
from scenario import Skipped, scenario
from traffic import Load
from context import CHARTS, ENGINE, ENGINES, PLANES, ROUTER

PROMETHEUS = 9090
ALERTS = CHARTS / ROUTER / "alerts/hermes.yaml"
# The relabelling of Prometheus' own examples for annotated pods, with a shorter interval.
CONFIGURATION = """
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%(rules)s]
scrape_configs:
- job_name: pods
  kubernetes_sd_configs: [{role: pod, kubeconfig_file: %(kubeconfig)s, namespaces: {names: [%(namespace)s]}}]
  relabel_configs:
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], regex: "true", action: keep}
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path], regex: (.+), target_label: __metrics_path__}
  - source_labels: [__meta_kubernetes_pod_ip, __meta_kubernetes_pod_annotation_prometheus_io_port]
    regex: (.+);(\\d+)
    replacement: $1:$2
    target_label: __address__
  - {source_labels: [__meta_kubernetes_namespace], target_label: namespace}
  - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
"""


class Prometheus:
    """A server that scrapes the namespace of the run and evaluates the chart's alerts."""

    def __init__(self, context, stack):
        state = Path(os.environ["HERMES_TRIAL_STATE"])
        shutil.rmtree(state / "prometheus", ignore_errors=True)
        configuration = state / "prometheus.yaml"
        configuration.write_text(CONFIGURATION % {
            "rules": ALERTS, "kubeconfig": os.environ["KUBECONFIG"], "namespace": context.cluster.namespace,
        }, encoding="utf-8")
        start(stack, [
            "prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={state / 'prometheus'}",
            "--storage.tsdb.retention.time=1h", f"--web.listen-address=0.0.0.0:{PROMETHEUS}",
        ], state / "prometheus.log")

    def ask(self, path):
        return document(PROMETHEUS, f"/api/v1/{path}")["data"]

    def query(self, expression):
        return self.ask(f"query?query={quote(expression)}")["result"]

    def up(self):
        """The names of the pods that are scraped."""
        targets = self.ask("targets?state=active")["activeTargets"]
        return {target["labels"]["pod"] for target in targets if target["health"] == "up"}

    def rules(self):
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def raised(self):
        """Names of the alerts that are firing or pending."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"]}


@scenario
def prometheus_finds_both_planes_and_every_alert_and_panel_has_data(context):
    if not context.own:
        raise Skipped("Prometheus needs the network of a local cluster")
    with ExitStack() as stack:
        context.install(ENGINES, engines(), "--force-conflicts")
        context.install(ROUTER, router(), "--force-conflicts")
        context.rolled_out(ENGINE, f"{ENGINES}-kv-manager", *PLANES)
        prometheus = Prometheus(context, stack)
        load = Load(context, "monitoring", "--workload", "conversation", "--users", "8", "--stagger", "0.25",
                    "--rounds", "500", "--system-tokens", "512", "--question-tokens", "100", "--tokens", "10",
                    "--think", "0.2")
        both_planes = set(context.control_plane_pods() + context.data_plane_pods())
        until("all pods of both planes are scraped", lambda: both_planes <= prometheus.up(), 60, every=0.5)

        alerts, panels = alert_expressions(prometheus), panel_queries(context)
        all_have_data(prometheus, {**alerts, **panels})
        context.figures.note("Prometheus has data for", f"{len(alerts)} alerts, {len(panels)} queries of panels")
        # Engines were just replaced: some alerts are pending for a moment.
        until(lambda: f"a healthy fleet raises no alert: {prometheus.raised()}", lambda: not prometheus.raised(),
              KUBELET, every=0.5)

        load.stop()
        context.cluster.scale(ENGINE, 0)
        edit(context, lambda text: text.replace("interval: 500ms", "interval: often"))
        faults = {"HermesConfigurationRejected", "HermesPoolEmpty"}
        until(lambda: f"{faults} are raised, and no others: {prometheus.raised()}",
              lambda: prometheus.raised() == faults, KUBELET, every=0.5)


def all_have_data(prometheus, expressions):
    """Fails unless every expression returns a sample. Counters must exist at zero: `rate` misses the first increment
    of a counter that appears with it."""
    missing = dict(expressions)

    def look():
        for name in [name for name, expression in missing.items() if prometheus.query(expression)]:
            del missing[name]
        return not missing

    until(lambda: f"Prometheus has data for {sorted(missing)}", look, 30, every=0.5)


def alert_expressions(prometheus):
    """The expression of each alert without its threshold, by alert name."""
    return {rule["name"]: without_threshold(rule["query"]) for rule in prometheus.rules()}


def engines():
    values = copy.deepcopy(install.ENGINE_VALUES)
    values["engines"][0]["kvEvents"] = True
    values["kvManager"] = {"enabled": True}
    return values


def router():
    """Values that enable every cache source, so that all metric families exist."""
    values = copy.deepcopy(install.ROUTER_VALUES)
    values["config"]["pools"][0] |= {
        "tokenizer": {"engine": True},
        "kvEvents": {},
        "kvManager": {"url": f"http://{ENGINES}-kv-manager:8080/match_sort"},
    }
    values["monitoring"] = {"dashboard": {"enabled": True}}
    return values


def panel_queries(context):
    """Every query of the installed dashboard, with its variables substituted, by panel title and expression."""
    def queries(panels):
        for panel in panels:
            yield from ((panel["title"], target["expr"]) for target in panel.get("targets", []))
            yield from queries(panel.get("panels", []))

    def filled_in(expression):
        for variable, value in (("$namespace", ".*"), ("$pool", ".*"), ("$__rate_interval", "20s")):
            expression = expression.replace(variable, value)
        return expression

    dashboard = json.loads(context.cluster.get("configmaps", f"{ROUTER}-dashboard")["data"]["hermes.json"])
    return {f"{title}: {expression}": filled_in(expression) for title, expression in queries(dashboard["panels"])}


def without_threshold(expression):
    """The part of an alert's expression before its first comparison outside parentheses."""
    depth = 0
    for at, character in enumerate(expression):
        depth += (character in "({") - (character in ")}")
        if depth == 0 and re.match(r" (==|!=|<=|>=|<|>) ", expression[at:]):
            return expression[:at]
    raise AssertionError(f"an alert without a threshold: {expression}")
