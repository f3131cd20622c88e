"""Runs the stories on the cluster that KUBECONFIG names: `python3 stories [NAME…]`.

Stories build on each other's world and run in one order; `install` is always the first. A story that fails says why and
shows what the cluster was doing, and the next one goes on. The last line is `N passed, N failed`.
"""

import importlib
import os
import sys
import time
import traceback
from pathlib import Path

sys.dont_write_bytecode = True

from figures import Figures
from kubernetes import connected, run
from story import LeftOut, stories_of
from world import World

ORDER = [
    "install", "manifests", "permissions", "configuration", "certificates", "scaling", "upgrades", "outages", "autoscaling",
    "monitoring", "tracing",
]
NAMESPACE = "hermes-trial"


def main(wanted):
    unknown = set(wanted) - set(ORDER)
    if unknown:
        sys.exit(f"no such story: {', '.join(sorted(unknown))}; there are: {', '.join(ORDER)}")
    state = Path(os.environ["HERMES_TRIAL_STATE"])
    figures = Figures()
    outcomes = []
    with connected(NAMESPACE) as cluster:
        world = World(cluster, figures)
        for name in ORDER:
            if name in wanted or not wanted or name == "install":
                for story in stories_of(importlib.import_module(name)):
                    outcomes.append(tell(story, world, state))
                if name == "install" and False in outcomes:
                    break
    figures.write(state / "figures.md")
    print(f"figures are in {state / 'figures.md'}")
    passed, failed = outcomes.count(True), outcomes.count(False)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def tell(story, world, state):
    """Runs one story; whether it holds, and None if it is left out."""
    title = story.__name__.replace("_", " ")
    begun = time.monotonic()
    print(f"{title} …", flush=True)
    try:
        story(world)
    except LeftOut as reason:
        print(f"  left out: {reason}", flush=True)
        return None
    except Exception:
        print(f"  FAILED after {time.monotonic() - begun:.1f} s\n{traceback.format_exc()}", flush=True)
        show(world.cluster, state / f"{story.__name__}.txt")
        end_loads(world.cluster)
        return False
    print(f"  holds, in {time.monotonic() - begun:.1f} s", flush=True)
    return True


def end_loads(cluster):
    """What a story that failed has left running would disturb the next one."""
    pods = cluster.path("pods", labelSelector="app=load", gracePeriodSeconds=0)
    try:
        cluster.ask("DELETE", pods)
    except Exception as error:
        print(f"  its load goes on: {error}", flush=True)


def show(cluster, path):
    """Writes down what the cluster was doing, for whoever has to find out."""
    commands = [
        ("get", "pods,deployments,services,endpointslices,hpa", "-o", "wide"),
        ("get", "events", "--sort-by=.lastTimestamp"),
        ("logs", "--prefix", "--tail=60", "--selector", World.control_plane),
        ("logs", "--prefix", "--tail=60", "--selector", World.data_plane),
    ]
    with open(path, "w", encoding="utf-8") as file:
        for command in commands:
            try:
                file.write(run("kubectl", "--namespace", cluster.namespace, *command, timeout=30))
            except Exception as error:
                file.write(f"{error}\n")
    print(f"  see {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
