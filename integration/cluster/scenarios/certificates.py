"""mTLS between the planes: a client without a certificate is rejected, and renewal under load fails no request."""

import time

import install
from configuration import KUBELET
from figures import seconds
from kubernetes import Refused, name_of, until
from scenario import scenario
from traffic import CONTAINER_SECURITY, POD_SECURITY
from upgrades import Clients, replaced
from context import CONTROL_PLANE, PLANES, ROUTER

SECRETS = tuple(f"{plane}-tls" for plane in PLANES)


@scenario
def a_proxy_without_a_certificate_is_rejected_and_never_ready(context):
    cluster = context.cluster
    before = rejected_handshakes(context)
    cluster.create("pods", {
        "metadata": {"name": "stranger"},
        "spec": {
            "automountServiceAccountToken": False,
            "securityContext": POD_SECURITY,
            "containers": [{
                "name": "data-plane",
                "image": context.image("hermes-data-plane"),
                "args": [f"--control-plane=http://{CONTROL_PLANE}.{cluster.namespace}:7070", "--admin=0.0.0.0:8001"],
                "securityContext": CONTAINER_SECURITY,
            }],
        },
    })
    until("three handshakes are rejected", lambda: rejected_handshakes(context) >= before + 3, 30)
    until("/readyz reports the missing snapshot", lambda: "snapshot" in unready_reason(cluster, "stranger"), 30)
    cluster.delete("pods", "stranger", gracePeriodSeconds=0)


@scenario
def certificates_are_renewed_under_load_without_failed_requests(context):
    cluster = context.cluster
    clients = Clients(context, "renew")
    before = expiries(context)
    # As if two thirds of their lifetime were over: the next `helm upgrade` issues new ones.
    for secret in SECRETS:
        cluster.kubectl("annotate", "--overwrite", "secret", secret, "hermes.ai/renew-after=1")
    begun = time.monotonic()
    context.install(ROUTER, install.ROUTER_VALUES, "--force-conflicts")
    until("every process uses its new certificate", lambda: all(
        after > before[pod] for pod, after in expiries(context).items()
    ), KUBELET)
    context.figures.note("certificates renewed by `helm upgrade`: until all processes use them",
                         seconds(time.monotonic() - begun))
    # Open connections need no new handshake; those of a new proxy do.
    pod = name_of(cluster.ready_pods(context.data_plane)[0])
    cluster.delete("pods", pod)
    until("a new proxy trusts and is trusted", lambda: replaced(context, context.data_plane, pod, 2), 60)
    clients.assert_unaffected_by("certificates renewed")


def unready_reason(cluster, pod):
    """The error body of a pod's /readyz; fails if the pod is ready."""
    try:
        answer = cluster.inside(pod, 8001, "/readyz")
    except Refused as error:
        return str(error)
    raise AssertionError(f"{pod} is ready: {answer}")


def rejected_handshakes(context):
    """TLS handshakes that failed, summed over all control-plane replicas."""
    pages = context.control_plane_metrics().values()
    total = "hermes_control_plane_tls_handshakes_total"
    return sum(page.sum(total) - page.sum(total, outcome="accepted") for page in pages)


def expiries(context):
    """Expiry of the certificate in use, for each process of both planes."""
    pages = context.control_plane_metrics() | context.data_plane_metrics()
    return {pod: page.sum("hermes_tls_certificate_expiry_timestamp_seconds") for pod, page in pages.items()}
