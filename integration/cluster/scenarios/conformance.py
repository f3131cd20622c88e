"""The conformance suite of the Gateway API Inference Extension, with Hermes as the gateway.

The suite is the extension's own, unchanged; `conformance/build` makes it. Its log and its report stay in the state of
the run. The report of a release is kept in docs/conformance.
"""

import copy
import json
import os
import re
import subprocess
import time
from pathlib import Path

import install
from context import REPOSITORY, ROUTER, Context
from figures import seconds
from kubernetes import Cluster, run
from scenario import Skipped, scenario

GATEWAY = f"gateway-{ROUTER}"
# That of the suite's Gateways, in which it looks for the gateway's pods.
NAMESPACE = "inference-conformance-infra"
CLASS = "hermes"
TESTS = 14
# For the whole suite; the limits of its tests are longer than what they take on two busy cores.
LIMIT = 1200
VERSION_OF = "inference.networking.k8s.io/bundle-version"
RESULT = re.compile(r"^    --- (PASS|FAIL|SKIP): TestConformance/(\w+) ", re.MULTILINE)


@scenario
def the_conformance_suite_of_the_inference_extension_passes(context):
    suite, definitions = os.environ.get("HERMES_CONFORMANCE"), os.environ.get("HERMES_DEFINITIONS")
    if not suite or not definitions:
        raise Skipped("it needs images and definitions that only a cluster of its own may get")
    state = Path(os.environ["HERMES_TRIAL_STATE"])
    removed = define(Path(definitions))
    gateway = Context(Cluster(context.cluster.port, NAMESPACE), context.figures)
    try:
        gateway.install(GATEWAY, gateway_values(), "--create-namespace", chart=ROUTER)
        gateway.rolled_out(f"{GATEWAY}-control-plane", f"{GATEWAY}-data-plane")
        run("kubectl", "wait", "--for=condition=Accepted", f"gatewayclass/{CLASS}", "--timeout=60s")
        begun = time.monotonic()
        results = RESULT.findall(execute(Path(suite) / "suite", state))
        passed = [name for outcome, name in results if outcome == "PASS"]
        gateway.figures.note("conformance tests of the Inference Extension that passed",
                             f"{len(passed)} of {TESTS}, in {seconds(time.monotonic() - begun)}")
        if len(passed) != TESTS or len(results) != TESTS:
            save_objects(gateway.cluster, state / "conformance-objects.txt")
            failed = sorted(f"{name}: {outcome}" for outcome, name in results if outcome != "PASS")
            raise AssertionError(f"{failed}; see {state / 'conformance.log'} and conformance-objects.txt beside it")
    finally:
        gateway.cluster.helm("uninstall", GATEWAY, "--ignore-not-found", "--wait=false")
        for file in removed:
            run("kubectl", "apply", "--server-side", f"--filename={file}")


def gateway_values():
    """A router that is the gateway of all namespaces."""
    values = copy.deepcopy(install.ROUTER_VALUES)
    values["config"] = {}
    # There is no load balancer here; the suite is in the network in which addresses of the cluster are reached.
    values["gatewayApi"] = {
        "enabled": True, "className": CLASS, "allNamespaces": True, "service": {"type": "ClusterIP"},
    }
    return values


def define(folder):
    """Installs the kinds that the suite is about, and removes those of other releases of the extension, which it rejects.

    Returns the files that define the removed ones.
    """
    pools = folder / "inference.networking.k8s.io_inferencepools.yaml"
    files = [*sorted(folder.glob("gateway.networking.k8s.io_*.yaml")), pools]
    flags = [f"--filename={file}" for file in files]
    run("kubectl", "apply", "--server-side", *flags)
    run("kubectl", "wait", "--for=condition=Established", *flags, "--timeout=30s")
    definitions = json.loads(run("kubectl", "get", "customresourcedefinitions", "--output=json"))["items"]
    version = {one["metadata"]["name"]: one["metadata"].get("annotations", {}).get(VERSION_OF) for one in definitions}
    wanted = version["inferencepools.inference.networking.k8s.io"]
    removed = [name for name, own in version.items() if own not in (None, wanted)]
    if removed:
        run("kubectl", "delete", "customresourcedefinitions", *removed, "--timeout=60s")
    return [folder / f"{group}_{plural}.yaml" for plural, group in (name.split(".", 1) for name in removed)]


def execute(suite, state):
    """Runs the suite. Returns its log."""
    version = re.search(r'^version = "(.+)"$', (REPOSITORY / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    report = state / f"v{version}-default-gateway-report.yaml"
    log = state / "conformance.log"
    report.unlink(missing_ok=True)
    command = [
        suite, "-test.v", f"-test.timeout={LIMIT}s", f"-gateway-class={CLASS}", f"-report-output={report}",
        # A failure is explained by what it has made, and the cluster ends with the run.
        "-cleanup-base-resources=false",
        "-organization=hermes-router", "-project=hermes", "-url=https://github.com/hermes-router/hermes",
        f"-version=v{version}", "-contact=https://github.com/hermes-router/hermes/issues",
    ]
    with open(log, "wb") as file:
        subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=LIMIT + 60, check=False)
    return log.read_text(encoding="utf-8", errors="replace")


def save_objects(cluster, path):
    """Writes what the suite has made, with its conditions, and the logs of the gateway to a file."""
    kinds = "gatewayclasses,gateways,httproutes,inferencepools.inference.networking.k8s.io,services"
    pods = f"app.kubernetes.io/instance={GATEWAY}"
    commands = [
        ("kubectl", "get", kinds, "--all-namespaces", "--output=yaml"),
        ("kubectl", f"--namespace={cluster.namespace}", "logs", "--prefix", "--tail=1000", "--selector", pods),
    ]
    with open(path, "w", encoding="utf-8") as file:
        for command in commands:
            file.write(run(*command))
