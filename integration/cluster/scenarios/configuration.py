"""The configuration changes at run time: by helm, by hand, and with an error in it."""

import copy
import time

import install
from figures import seconds
from kubernetes import name_of, until
from scenario import scenario
from context import ROUTER

# The kubelet updates a mounted ConfigMap within its sync period plus the TTL of its cache: a minute and more.
KUBELET = 150


def with_strategy(strategy):
    values = copy.deepcopy(install.ROUTER_VALUES)
    values["config"]["pools"][0]["strategy"] = strategy
    return values


def strategies(context):
    """The strategies in the proxies' snapshots."""
    pools = [pool["spec"]["policy"] for page in context.snapshots() for pool in page["snapshot"]["pools"]]
    # A strategy with settings is a table with its name as the only key.
    strategies = [policy["strategy"] for policy in pools]
    return {name for strategy in strategies for name in ([strategy] if isinstance(strategy, str) else strategy)}


def reloads(context):
    """For each control-plane replica, whether its last reload of the configuration succeeded (1) or not (0)."""
    pages = context.control_plane_metrics().items()
    return {pod: page.sum("hermes_control_plane_config_last_reload_successful") for pod, page in pages}


def processes(context):
    pods = context.cluster.pods(context.control_plane) + context.cluster.pods(context.data_plane)
    return {name_of(pod): pod["status"]["containerStatuses"][0]["containerID"] for pod in pods}


@scenario
def a_strategy_changed_by_helm_takes_effect_without_restarts(context):
    before = processes(context)
    begun = time.monotonic()
    context.install(ROUTER, with_strategy("least-request"))
    until("all proxies use the new strategy", lambda: strategies(context) == {"least-request"}, KUBELET)
    context.figures.note("a strategy changed by `helm upgrade`: until all proxies use it",
                         seconds(time.monotonic() - begun))
    assert processes(context) == before, "something was restarted"


@scenario
def a_strategy_changed_by_hand_takes_effect(context):
    begun = time.monotonic()
    edit(context, lambda text: text.replace("least-request", "power-of-two"))
    until("all proxies use the new strategy", lambda: strategies(context) == {"power-of-two"}, KUBELET)
    context.figures.note("a strategy changed by `kubectl edit`: until all proxies use it",
                         seconds(time.monotonic() - begun))


@scenario
def an_invalid_configuration_is_rejected_and_reported_and_the_last_valid_one_stays(context):
    edit(context, lambda text: text.replace("power-of-two", "power-of-three"))
    until("all replicas reject it", lambda: set(reloads(context).values()) == {0.0}, KUBELET)
    assert strategies(context) == {"power-of-two"}
    status, body = context.chat()
    assert status == 200, body
    for pod in context.control_plane_pods():
        assert "power-of-three" in context.cluster.log(pod, tailLines=200), f"the log of {pod} does not name the error"
        readiness = context.cluster.inside(pod, 7071, "/readyz")
        assert "power-of-three" in readiness, f"/readyz of {pod} does not name the error"
    until("an Event reports the rejection", lambda: events(context, "ConfigurationRejected"), 20)
    edit(context, lambda text: text.replace("power-of-three", "kv-aware"))
    until("all replicas accept the next one", lambda: set(reloads(context).values()) == {1.0}, KUBELET)
    # The edit by hand took ownership of the field: without --force-conflicts helm reports a conflict.
    context.install(ROUTER, install.ROUTER_VALUES, "--force-conflicts")
    until("the original strategy is back", lambda: strategies(context) == {"kv-aware"}, KUBELET)


def events(context, reason):
    return [event for event in context.cluster.list("events") if event["reason"] == reason]


def edit(context, change):
    """Changes the configuration file in its ConfigMap, as `kubectl edit` does."""
    for config in context.cluster.list("configmaps"):
        for key, text in config.get("data", {}).items():
            if "pools:" in text:
                context.cluster.patch("configmaps", name_of(config), {"data": {key: change(text)}})
                return
    raise AssertionError("no ConfigMap holds the configuration")
