"""The configuration changes while requests are served: by helm, by hand, and wrongly."""

import copy
import time

import install
from figures import seconds
from kubernetes import name_of, until
from story import story
from world import ROUTER

# The kubelet brings a changed ConfigMap into a pod within its sync period and its cache's time: a minute and more.
KUBELET = 150


def with_strategy(strategy):
    values = copy.deepcopy(install.ROUTER_VALUES)
    values["config"]["pools"][0]["strategy"] = strategy
    return values


def strategies(world):
    """The strategies in use, as the proxies know them."""
    pools = [pool["spec"]["policy"] for page in world.snapshots() for pool in page["snapshot"]["pools"]]
    # One with settings is a table with its name as the only key.
    return {name for policy in pools for name in ([policy["strategy"]] if isinstance(policy["strategy"], str) else policy["strategy"])}


def reloads(world):
    """For each replica of the control plane: whether its last look at the configuration went well."""
    pages = world.control_plane_metrics().items()
    return {pod: page.sum("hermes_control_plane_config_last_reload_successful") for pod, page in pages}


def processes(world):
    pods = world.cluster.pods(world.control_plane) + world.cluster.pods(world.data_plane)
    return {name_of(pod): pod["status"]["containerStatuses"][0]["containerID"] for pod in pods}


@story
def a_strategy_that_helm_changes_is_in_use_soon_and_restarts_nothing(world):
    before = processes(world)
    begun = time.monotonic()
    world.install(ROUTER, with_strategy("least-request"))
    until("all proxies use the new strategy", lambda: strategies(world) == {"least-request"}, KUBELET)
    world.figures.note("a strategy changed by `helm upgrade`: until all proxies use it", seconds(time.monotonic() - begun))
    assert processes(world) == before, "something was restarted"


@story
def a_strategy_that_is_changed_by_hand_is_in_use_soon(world):
    begun = time.monotonic()
    edit(world, lambda text: text.replace("least-request", "power-of-two"))
    until("all proxies use the new strategy", lambda: strategies(world) == {"power-of-two"}, KUBELET)
    world.figures.note("a strategy changed by `kubectl edit`: until all proxies use it", seconds(time.monotonic() - begun))


@story
def a_broken_edit_is_refused_and_seen_and_the_last_good_one_stays(world):
    edit(world, lambda text: text.replace("power-of-two", "power-of-three"))
    until("all replicas refuse it", lambda: set(reloads(world).values()) == {0.0}, KUBELET)
    assert strategies(world) == {"power-of-two"}
    status, body = world.chat()
    assert status == 200, body
    for pod in world.control_plane_pods():
        assert "power-of-three" in world.cluster.log(pod, tailLines=200), f"the log of {pod} does not say what is wrong"
        assert "power-of-three" in world.cluster.inside(pod, 7071, "/readyz"), f"/readyz of {pod} does not say it"
    until("an Event tells of the refusal", lambda: events(world, "ConfigurationRejected"), 20)
    edit(world, lambda text: text.replace("power-of-three", "kv-aware"))
    until("all replicas take the next one", lambda: set(reloads(world).values()) == {1.0}, KUBELET)
    # Helm owns what it wrote, and says so when somebody else has changed it meanwhile.
    world.install(ROUTER, install.ROUTER_VALUES, "--force-conflicts")
    until("the usual strategy is back", lambda: strategies(world) == {"kv-aware"}, KUBELET)


def events(world, reason):
    return [event for event in world.cluster.list("events") if event["reason"] == reason]


def edit(world, change):
    """Changes the configuration file in its ConfigMap, as `kubectl edit` does."""
    for config in world.cluster.list("configmaps"):
        for key, text in config.get("data", {}).items():
            if "pools:" in text:
                world.cluster.patch("configmaps", name_of(config), {"data": {key: change(text)}})
                return
    raise AssertionError("no ConfigMap holds the configuration")
