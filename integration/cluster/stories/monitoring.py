"""A real Prometheus finds the pods by their annotations, and every alert and every panel has something to go by."""

import copy
import json
import os
import re
import shutil
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import install
from beside import document, start
from configuration import KUBELET, edit
from kubernetes import until
from story import LeftOut, story
from traffic import Load
from world import CHARTS, ENGINE, ENGINES, PLANES, ROUTER

PROMETHEUS = 9090
ALERTS = CHARTS / ROUTER / "alerts/hermes.yaml"
# How Prometheus' own examples find annotated pods; only the interval is shorter than a user's.
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
    """A server that scrapes the trial's namespace and evaluates the chart's alerts."""

    def __init__(self, world, stack):
        state = Path(os.environ["HERMES_TRIAL_STATE"])
        shutil.rmtree(state / "prometheus", ignore_errors=True)
        configuration = state / "prometheus.yaml"
        configuration.write_text(CONFIGURATION % {
            "rules": ALERTS, "kubeconfig": os.environ["KUBECONFIG"], "namespace": world.cluster.namespace,
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
        return {one["labels"]["pod"] for one in self.ask("targets?state=active")["activeTargets"] if one["health"] == "up"}

    def rules(self):
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def raised(self):
        """Names of the alerts that fire, or will if things stay as they are."""
        return {alert["labels"]["alertname"] for alert in self.ask("alerts")["alerts"]}


@story
def prometheus_finds_both_planes_and_every_alert_and_panel_has_data(world):
    if not world.own:
        raise LeftOut("no Prometheus can run beside another machine's cluster")
    with ExitStack() as stack:
        world.install(ENGINES, engines(), "--force-conflicts")
        world.install(ROUTER, router(), "--force-conflicts")
        world.rolled_out(ENGINE, f"{ENGINES}-kv-manager", *PLANES)
        prometheus = Prometheus(world, stack)
        load = Load(world, "monitoring", "--workload", "conversation", "--users", "8", "--rate", "4", "--rounds", "500",
                    "--system-tokens", "512", "--prompt-bytes", "400", "--tokens", "10", "--think", "0.2")
        both_planes = set(world.control_plane_pods() + world.data_plane_pods())
        until("all pods of both planes are scraped", lambda: both_planes <= prometheus.up(), 60, every=0.5)

        alerts, panels = watched(prometheus), drawn(world)
        all_have_data(prometheus, {**alerts, **panels})
        world.figures.note("Prometheus has data for", f"{len(alerts)} alerts, {len(panels)} queries of panels")
        # Engines were just replaced, which some alerts notice for a moment.
        until(lambda: f"a fleet that is well raises no alert: {prometheus.raised()}", lambda: not prometheus.raised(),
              KUBELET, every=0.5)

        load.enough()
        world.cluster.scale(ENGINE, 0)
        edit(world, lambda text: text.replace("interval: 500ms", "interval: often"))
        faults = {"HermesConfigurationRejected", "HermesPoolEmpty"}
        until(lambda: f"{faults} are raised, and no others: {prometheus.raised()}", lambda: prometheus.raised() == faults,
              KUBELET, every=0.5)


def all_have_data(prometheus, expressions):
    """What nothing has happened to yet is a counter at zero, not a counter that is missing: `rate` needs the zero."""
    missing = dict(expressions)

    def look():
        for name in [name for name, expression in missing.items() if prometheus.query(expression)]:
            del missing[name]
        return not missing

    until(lambda: f"Prometheus has data for {sorted(missing)}", look, 30, every=0.5)


def watched(prometheus):
    """What each alert compares, by its name."""
    return {rule["name"]: without_threshold(rule["query"]) for rule in prometheus.rules()}


def engines():
    values = copy.deepcopy(install.ENGINE_VALUES)
    values["engines"][0]["kvEvents"] = True
    values["kvManager"] = {"enabled": True}
    return values


def router():
    """Every source of knowledge is in use, so that none of its metrics is missing."""
    values = copy.deepcopy(install.ROUTER_VALUES)
    values["config"]["pools"][0] |= {
        "tokenizer": {"engine": True},
        "kvEvents": {},
        "kvManager": {"url": f"http://{ENGINES}-kv-manager:8080/match_sort"},
    }
    values["monitoring"] = {"dashboard": {"enabled": True}}
    return values


def drawn(world):
    """Every query of the installed dashboard with its variables filled in, by its panel's title and itself."""
    def queries(panels):
        for panel in panels:
            yield from ((panel["title"], target["expr"]) for target in panel.get("targets", []))
            yield from queries(panel.get("panels", []))

    def filled_in(expression):
        for variable, value in (("$namespace", ".*"), ("$pool", ".*"), ("$__rate_interval", "20s")):
            expression = expression.replace(variable, value)
        return expression

    dashboard = json.loads(world.cluster.get("configmaps", f"{ROUTER}-dashboard")["data"]["hermes.json"])
    return {f"{title}: {expression}": filled_in(expression) for title, expression in queries(dashboard["panels"])}


def without_threshold(expression):
    """What an alert compares: its expression up to a comparison that is in no parentheses."""
    depth = 0
    for at, character in enumerate(expression):
        depth += (character in "({") - (character in ")}")
        if depth == 0 and re.match(r" (==|!=|<=|>=|<|>) ", expression[at:]):
            return expression[:at]
    raise AssertionError(f"an alert without a threshold: {expression}")
