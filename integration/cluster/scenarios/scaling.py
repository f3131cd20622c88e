"""Engines are scaled 2 → 6 → 1 under load without failed requests."""

import time

from kubernetes import is_ready, name_of, until
from figures import load_line, seconds
from scenario import scenario
from traffic import Load, assert_all_ok
from context import ENGINE

# Seconds after which a new engine that is ready has requests, and a terminating one gets no new ones.
PROMPT = 2.0


def answered(cluster, pod):
    """The number of requests that an engine has received."""
    metrics = cluster.metrics(pod, 8000)
    finished = metrics.sum("vllm:request_success_total")
    return finished + metrics.sum("vllm:num_requests_running") + metrics.sum("vllm:num_requests_waiting")


@scenario
def new_engines_get_requests_within_two_seconds_and_terminating_ones_get_none(context):
    cluster = context.cluster
    cluster.scale(ENGINE, 2)
    old = {name_of(pod) for pod in cluster.await_pods(context.engines, 2)}
    # A prompt fills no cache block and takes an engine about 50 ms, so a single engine can carry this load.
    load = Load(context, "scaling", "--workload", "stream", "--rate", "14", "--poisson", "--connections", "200",
                "--prompt-bytes", "1600", "--tokens", "20")
    time.sleep(3)

    delays = grow(cluster, context, old, 6)
    context.figures.note("engines 2 → 6: from ready to the first request", ", ".join(seconds(one) for one in delays))
    late = shrink(cluster, context)
    report = load.stop()
    context.figures.note("engines 2 → 6 → 1 under load", load_line(report))
    assert_all_ok(report)
    assert max(delays) <= PROMPT, f"from ready to the first request: {delays}"
    assert late == {}, f"requests that terminating engines got after {PROMPT} s: {late}"


def grow(cluster, context, old, count):
    """Scales up. Returns the time from ready to the first request for each new engine."""
    cluster.scale(ENGINE, count)
    ready, served = {}, {}

    def look():
        for pod in cluster.list("pods", context.engines):
            name = name_of(pod)
            if name in old or not is_ready(pod):
                continue
            ready.setdefault(name, time.monotonic())
            if name not in served and answered(cluster, name) > 0:
                served[name] = time.monotonic()
        return len(served) == count - len(old)

    until(f"{count} engines with traffic", look, 60, every=0.05)
    return sorted(served[name] - ready[name] for name in served)


def shrink(cluster, context):
    """Scales down to one. Returns the requests that terminating engines received after the limit."""
    cluster.scale(ENGINE, 1)
    deleted, since, late = {}, {}, {}

    def look():
        pods = cluster.list("pods", context.engines)
        for pod in pods:
            if "deletionTimestamp" in pod["metadata"]:
                follow(name_of(pod))
        return len(pods) == 1

    def follow(name):
        now = time.monotonic()
        deleted.setdefault(name, now)
        try:
            count = answered(cluster, name)
        except Exception:
            return  # it has gone
        if now - deleted[name] >= PROMPT and count > since.setdefault(name, count):
            late[name] = count - since[name]

    until("one engine is left", look, 90, every=0.1)
    return late
