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
    """The strategy in use, as each proxy knows it."""
    return {pool["strategy"]["name"] for snapshot in world.snapshots() for pool in snapshot["pools"]}


def reloads(world):
    """For each replica of the control plane: whether its last look at the configuration went well."""
    pages = {pod: world.cluster.metrics(pod, 7071) for pod in world.control_plane_pods()}
    return {pod: page.sum("hermes_control_plane_config_last_reload_successful") for pod, page in pages.items()}


def processes(world):
    pods = world.cluster.pods(world.control_plane) + world.cluster.pods(world.data_plane)
    return {name_of(pod): pod["status"]["containerStatuses"][0]["containerID"] for pod in pods}
