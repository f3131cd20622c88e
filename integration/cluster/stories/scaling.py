"""Engines come and go under load: 2, then 6, then 1, and no client notices."""

import time

from kubernetes import is_ready, name_of, until
from figures import load_line, seconds
from story import story
from traffic import Load, all_well
from world import ENGINE

# A new engine has traffic this long after Kubernetes calls it ready, at most; a leaving one has none after it.
PROMPT = 2.0


def answered(cluster, pod):
    """Requests that an engine has begun."""
    metrics = cluster.metrics(pod, 8000)
    finished = metrics.sum("vllm:request_success_total")
    return finished + metrics.sum("vllm:num_requests_running") + metrics.sum("vllm:num_requests_waiting")


@story
def new_engines_get_traffic_within_two_seconds_and_leaving_ones_get_none(world):
    cluster = world.cluster
    cluster.scale(ENGINE, 2)
    old = {name_of(pod) for pod in cluster.await_pods(world.engines, 2)}
    # A prompt fills no block of a cache and costs an engine some 50 ms: two carry this load, and so does the one at last.
    load = Load(world, "scaling", "--workload", "stream", "--rate", "14", "--poisson", "--connections", "200",
                "--prompt-bytes", "1600", "--tokens", "20")
    time.sleep(3)

    delays = grow(cluster, world, old, 6)
    world.figures.note("engines 2 → 6: from ready to the first request", ", ".join(seconds(one) for one in delays))
    late = shrink(cluster, world)
    report = load.enough()
    world.figures.note("engines 2 → 6 → 1 under load", load_line(report))
    all_well(report)
    assert max(delays) <= PROMPT, f"from ready to the first request: {delays}"
    assert late == {}, f"requests that leaving engines got after {PROMPT} s: {late}"


def grow(cluster, world, old, count):
    """Scales up; for each new engine the time from ready to its first request."""
    cluster.scale(ENGINE, count)
    ready, served = {}, {}

    def look():
        for pod in cluster.list("pods", world.engines):
            name = name_of(pod)
            if name in old or not is_ready(pod):
                continue
            ready.setdefault(name, time.monotonic())
            if name not in served and answered(cluster, name) > 0:
                served[name] = time.monotonic()
        return len(served) == count - len(old)

    until(f"{count} engines with traffic", look, 60, every=0.05)
    return sorted(served[name] - ready[name] for name in served)


def shrink(cluster, world):
    """Scales down to one; requests that leaving engines began later than they should have."""
    cluster.scale(ENGINE, 1)
    told, since, late = {}, {}, {}

    def look():
        pods = cluster.list("pods", world.engines)
        for pod in pods:
            if "deletionTimestamp" in pod["metadata"]:
                follow(name_of(pod))
        return len(pods) == 1

    def follow(name):
        now = time.monotonic()
        told.setdefault(name, now)
        try:
            count = answered(cluster, name)
        except Exception:
            return  # it has gone
        if now - told[name] >= PROMPT and count > since.setdefault(name, count):
            late[name] = count - since[name]

    until("one engine is left", look, 90, every=0.1)
    return late
