"""The HPA scales the data plane with its load, and the cache hit rate does not depend on the number of proxies."""

import copy
import time

import install
from figures import load_line, seconds
from kubernetes import until
from scenario import scenario
from traffic import Load, assert_all_ok
from context import DATA_PLANE, ROUTER

# The whole cluster has two cores: with a small CPU request a proxy reaches the HPA's target at low load.
BUSY = {"requests": {"cpu": "40m", "memory": "32Mi"}}


def autoscaled():
    values = copy.deepcopy(install.ROUTER_VALUES)
    values["dataPlane"]["resources"] = BUSY
    values["dataPlane"]["autoscaling"] = {
        "enabled": True, "minReplicas": 2, "maxReplicas": 6, "cpu": 70, "scaleDownSeconds": 15,
    }
    return values


@scenario
def cache_hit_rate_is_the_same_with_one_two_and_four_proxies(context):
    rates = {}
    for proxies in (1, 2, 4):
        context.cluster.scale(DATA_PLANE, proxies)
        context.cluster.await_pods(context.data_plane, proxies)
        # New texts each time, so that no cache holds them from the run before. Connections are kept, and clients come
        # one after the other, so that Kubernetes spreads them over the proxies.
        load = Load(context, f"hits-{proxies}", "--workload", "conversation", "--users", "16", "--rounds", "6",
                    "--stagger", "0.125", "--system-tokens", "1024", "--history-tokens", "2048",
                    "--question-tokens", "100", "--tokens", "20", "--think", "0.5",
                    "--seed", str(100 + proxies), "--duration", "60")
        report = load.report(seconds=120)
        assert_all_ok(report)
        rates[proxies] = report["hit_rate"]
        context.figures.note(f"hit rate with {proxies} proxies", f"{report['hit_rate']:.1%}; {load_line(report)}")
    context.cluster.scale(DATA_PLANE, 2)
    context.cluster.await_pods(context.data_plane, 2)
    # The control plane, not the proxy, tracks what each engine caches. A few turns may miss on a busy machine.
    assert min(rates.values()) > max(rates.values()) - 0.1, rates


@scenario
def hpa_scales_the_data_plane_to_four_proxies_and_back_without_failed_requests(context):
    cluster = context.cluster
    context.install(ROUTER, autoscaled(), "--force-conflicts")
    context.rolled_out(DATA_PLANE)
    # A background of chats goes on to the end; a heavy load comes and goes.
    background = Load(context, "background", "--workload", "stream", "--rate", "3", "--connections", "50",
                      "--tokens", "8", "--prompt-bytes", "400")
    heavy = Load(context, "heavy", "--workload", "chat", "--connections", "48", "--tokens", "1",
                 "--prompt-bytes", "200")
    begun = time.monotonic()
    until("four proxies are ready", lambda: len(cluster.ready_pods(context.data_plane)) >= 4, 180, every=0.5)
    context.figures.note("HPA: from the load's start to four ready proxies", seconds(time.monotonic() - begun))
    report = heavy.stop()
    context.figures.note("HPA: the load that raised it", load_line(report))
    ended = time.monotonic()
    until("two proxies are left", lambda: len(cluster.list("pods", context.data_plane)) == 2, 240, every=0.5)
    context.figures.note("HPA: from the load's end to two proxies", seconds(time.monotonic() - ended))
    after = background.stop()
    context.figures.note("HPA: chats meanwhile", load_line(after))
    assert_all_ok(report)
    assert_all_ok(after)
