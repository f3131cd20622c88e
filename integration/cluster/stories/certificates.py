"""The planes know each other by certificates: strangers get nothing, and renewing them is not noticed by anybody."""

import time

import install
from configuration import KUBELET
from figures import seconds
from kubernetes import Refused, name_of, until
from story import story
from traffic import CONTAINER_SECURITY, POD_SECURITY
from upgrades import Clients, replaced
from world import CONTROL_PLANE, PLANES, ROUTER

SECRETS = tuple(f"{plane}-tls" for plane in PLANES)


@story
def a_proxy_without_a_certificate_gets_nothing(world):
    cluster = world.cluster
    refused = refusals(world)
    cluster.create("pods", {
        "metadata": {"name": "stranger"},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": POD_SECURITY,
            "containers": [{
                "name": "data-plane",
                "image": world.image("hermes-data-plane"),
                "args": [f"--control-plane=http://{CONTROL_PLANE}.{cluster.namespace}:7070", "--admin=0.0.0.0:8001"],
                "securityContext": CONTAINER_SECURITY,
            }],
        },
    })
    until("the control plane has refused it three times", lambda: refusals(world) >= refused + 3, 30)
    until("it says that it knows nothing", lambda: "snapshot" in refusal(cluster, "stranger"), 30)
    cluster.delete("pods", "stranger", gracePeriodSeconds=0)


@story
def certificates_are_renewed_under_load_and_nobody_notices(world):
    cluster = world.cluster
    clients = Clients(world, "renew")
    before = expiries(world)
    # As when two thirds of their time are over: the next upgrade makes new ones.
    for secret in SECRETS:
        cluster.kubectl("annotate", "--overwrite", "secret", secret, "hermes.ai/renew-after=1")
    begun = time.monotonic()
    world.install(ROUTER, install.ROUTER_VALUES, "--force-conflicts")
    until("every process uses its new certificate", lambda: all(
        after > before[pod] for pod, after in expiries(world).items()
    ), KUBELET)
    world.figures.note("certificates renewed by `helm upgrade`: until all processes use them", seconds(time.monotonic() - begun))
    # Connections that are open need no handshake; those of a new proxy do.
    pod = name_of(cluster.ready_pods(world.data_plane)[0])
    cluster.delete("pods", pod)
    until("a new proxy trusts and is trusted", lambda: replaced(world, world.data_plane, pod, 2), 60)
    clients.saw_nothing_of("certificates renewed")


def refusal(cluster, pod):
    """What a pod says of its readiness that it has not; fails if it is ready."""
    try:
        answer = cluster.inside(pod, 8001, "/readyz")
    except Refused as error:
        return str(error)
    raise AssertionError(f"{pod} is ready: {answer}")


def refusals(world):
    """Handshakes that did not become a connection, at all replicas."""
    pages = world.control_plane_metrics().values()
    total = "hermes_control_plane_tls_handshakes_total"
    return sum(page.sum(total) - page.sum(total, outcome="accepted") for page in pages)


def expiries(world):
    """When the certificate in use ends, for each process of both planes."""
    pages = world.control_plane_metrics() | world.data_plane_metrics()
    return {pod: page.sum("hermes_tls_certificate_expiry_timestamp_seconds") for pod, page in pages.items()}
