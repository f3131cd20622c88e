"""The data plane grows and shrinks with its load, and does not forget who cached what when it has more proxies."""

import copy
import time

import install
from figures import load_line, seconds
from kubernetes import until
from story import story
from traffic import Load, all_well
from world import DATA_PLANE, ROUTER

# Two machine cores for everything: a small request for CPU stands for a busy proxy.
BUSY = {"requests": {"cpu": "40m", "memory": "32Mi"}}


def autoscaled():
    values = copy.deepcopy(install.ROUTER_VALUES)
    values["dataPlane"]["resources"] = BUSY
    values["dataPlane"]["autoscaling"] = {
        "enabled": True, "minReplicas": 2, "maxReplicas": 6, "cpu": 70, "scaleDownSeconds": 15,
    }
    return values


@story
def many_proxies_find_as_much_in_caches_as_one(world):
    rates = {}
    for proxies in (1, 2, 4):
        world.cluster.scale(DATA_PLANE, proxies)
        world.cluster.await_pods(world.data_plane, proxies)
        # New texts each time, so that no cache holds them from the run before. Connections are kept, and clients come
        # one after the other, so that Kubernetes spreads them over the proxies.
        load = Load(world, f"hits-{proxies}", "--workload", "conversation", "--users", "16", "--rounds", "6",
                    "--rate", "8", "--system-tokens", "1024", "--history-tokens", "2048", "--prompt-bytes", "400",
                    "--tokens", "20", "--think", "0.5", "--seed", str(100 + proxies), "--duration", "60")
        report = load.report(seconds=120)
        all_well(report)
        rates[proxies] = report["hit_rate"]
        world.figures.note(f"hit rate with {proxies} proxies", f"{report['hit_rate']:.1%}; {load_line(report)}")
    world.cluster.scale(DATA_PLANE, 2)
    world.cluster.await_pods(world.data_plane, 2)
    # What each engine holds is known to the control plane, not to a proxy. A few turns may miss on a busy machine.
    assert min(rates.values()) > max(rates.values()) - 0.1, rates


@story
def load_raises_the_data_plane_to_four_and_more_and_its_end_costs_no_request(world):
    cluster = world.cluster
    world.install(ROUTER, autoscaled(), "--force-conflicts")
    world.rolled_out(DATA_PLANE)
    # A background of chats goes on to the end; a heavy load comes and goes.
    background = Load(world, "background", "--workload", "stream", "--rate", "3", "--connections", "50",
                      "--tokens", "8", "--prompt-bytes", "400")
    heavy = Load(world, "heavy", "--workload", "chat", "--connections", "48", "--tokens", "1", "--prompt-bytes", "200")
    begun = time.monotonic()
    until("four proxies are ready", lambda: len(cluster.ready_pods(world.data_plane)) >= 4, 180, every=0.5)
    world.figures.note("HPA: from the load's start to four ready proxies", seconds(time.monotonic() - begun))
    report = heavy.enough()
    world.figures.note("HPA: the load that raised it", load_line(report))
    ended = time.monotonic()
    until("two proxies are left", lambda: len(cluster.list("pods", world.data_plane)) == 2, 240, every=0.5)
    world.figures.note("HPA: from the load's end to two proxies", seconds(time.monotonic() - ended))
    after = background.enough()
    world.figures.note("HPA: chats meanwhile", load_line(after))
    all_well(report)
    all_well(after)
