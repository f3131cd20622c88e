"""Runs the scenarios on the cluster that KUBECONFIG names: `python3 scenarios [NAME…]`.

Scenarios share one installation and run in a fixed order, `install` always first. After a failure the traceback is
printed, the state of the cluster is saved, and the next scenario runs. The last line is `N passed, N failed`.
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
from scenario import Skipped, scenarios_of
from context import Context

ORDER = [
    "install", "manifests", "permissions", "configuration", "inference_pools", "guide", "certificates", "scaling",
    "prefill_decode", "upgrades", "outages", "autoscaling", "monitoring", "tracing", "conformance",
]
NAMESPACE = "hermes-trial"


def main(wanted):
    unknown = set(wanted) - set(ORDER)
    if unknown:
        sys.exit(f"no such scenario: {', '.join(sorted(unknown))}; there are: {', '.join(ORDER)}")
    state = Path(os.environ["HERMES_TRIAL_STATE"])
    figures = Figures()
    outcomes = []
    with connected(NAMESPACE) as cluster:
        context = Context(cluster, figures)
        for name in ORDER:
            if name in wanted or not wanted or name == "install":
                for scenario in scenarios_of(importlib.import_module(name)):
                    outcomes.append(execute(scenario, context, state))
                if name == "install" and False in outcomes:
                    break
    figures.write(state / "figures.md")
    print(f"figures are in {state / 'figures.md'}")
    passed, failed = outcomes.count(True), outcomes.count(False)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


def execute(scenario, context, state):
    """Runs one scenario. Returns True if it passed, False if it failed, None if it was skipped."""
    title = scenario.__name__.replace("_", " ")
    begun = time.monotonic()
    print(f"{title} …", flush=True)
    try:
        scenario(context)
    except Skipped as reason:
        print(f"  skipped: {reason}", flush=True)
        return None
    except Exception:
        print(f"  FAILED after {time.monotonic() - begun:.1f} s\n{traceback.format_exc()}", flush=True)
        save_state(context.cluster, state / f"{scenario.__name__}.txt")
        end_loads(context.cluster)
        return False
    print(f"  passed in {time.monotonic() - begun:.1f} s", flush=True)
    return True


def end_loads(cluster):
    """Deletes the load pods of a failed scenario, which would disturb the next one."""
    pods = cluster.path("pods", labelSelector="app=load", gracePeriodSeconds=0)
    try:
        cluster.ask("DELETE", pods)
    except Exception as error:
        print(f"  its load pods could not be deleted: {error}", flush=True)


def save_state(cluster, path):
    """Writes objects, events and logs of the namespace to a file, for the diagnosis of a failure."""
    commands = [
        ("get", "pods,deployments,services,endpointslices,hpa", "-o", "wide"),
        ("get", "events", "--sort-by=.lastTimestamp"),
        ("logs", "--prefix", "--tail=60", "--selector", Context.control_plane),
        ("logs", "--prefix", "--tail=60", "--selector", Context.data_plane),
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
