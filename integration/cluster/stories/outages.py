"""The API server is away for a minute. Traffic goes on, and discovery is right again soon after it is back."""

import os
import time

from figures import seconds
from kubernetes import is_ready, name_of, run, until
from story import story
from upgrades import Clients
from world import ENGINE

OUTAGE = 60.0
# From the API server's return to traffic on what has changed since.
RECOVERY = 5.0


@story
def a_minute_without_the_api_server_costs_no_request_and_discovery_is_right_soon_after(world):
    if not world.own:
        print("    left out: the API server of another machine's cluster cannot be stopped from here")
        return
    cluster = world.cluster
    cluster.scale(ENGINE, 2)
    old = {name_of(pod) for pod in cluster.await_pods(world.engines, 2)}
    clients = Clients(world, "outage")
    component = os.path.join(os.environ["HERMES_MACHINE"], "component")
    run(component, "stop", "apiserver")
    time.sleep(OUTAGE)
    begun = time.monotonic()
    run(component, "start", "apiserver")
    until("the API server is back", cluster.is_up, 60)
    back = time.monotonic()
    world.figures.note("API server: from its start to ready", seconds(back - begun))

    until("an order to scale is taken", lambda: cluster.scale(ENGINE, 3) is None, 30)
    ready, known = None, None
    deadline = back + 150
    while known is None and time.monotonic() < deadline:
        time.sleep(0.05)
        try:
            fresh = [pod for pod in cluster.ready_pods(world.engines) if name_of(pod) not in old]
            if fresh and ready is None:
                ready = time.monotonic()
            if fresh and all(serving(cluster, pod) == 3 for pod in world.control_plane_pods()):
                known = time.monotonic()
        except Exception:
            continue
    assert known, "a new engine is not known 150 s after the API server is back"
    world.figures.note("API server away for 60 s: from its return, and from the new engine's readiness, to all replicas"
                       " knowing it", f"{seconds(known - back)}, {seconds(known - ready)}")
    clients.saw_nothing_of("API server away for 60 s")
    cluster.scale(ENGINE, 2)
    assert known - max(ready, back) <= RECOVERY, f"discovery took {known - max(ready, back):.1f} s"


def serving(cluster, pod):
    """Endpoints that a replica of the control plane knows."""
    return cluster.metrics(pod, 7071).sum("hermes_control_plane_endpoints")
