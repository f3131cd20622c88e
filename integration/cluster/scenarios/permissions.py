"""The service accounts have the permissions that they need, and no others."""

import json
import subprocess

from kubernetes import name_of
from scenario import scenario
from context import CHARTS, CONTROL_PLANE, DATA_PLANE, ROUTER

# Verbs and resources, as `kubectl auth can-i` takes them.
NEEDED = [(verb, kind) for verb in ("list", "watch") for kind in ("services", "endpointslices.discovery.k8s.io")]
# Events about rejected configurations, which `kubectl describe` shows.
NEEDED_HERE = [("create", "events.events.k8s.io")]
FORBIDDEN = [
    ("list", "secrets"),
    ("get", "secrets"),
    ("get", "configmaps"),
    ("create", "pods"),
    ("delete", "pods"),
    ("create", "pods/exec"),
    ("update", "services"),
    ("patch", "endpointslices.discovery.k8s.io"),
    ("create", "configmaps"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("create", "serviceaccounts/token"),
    ("list", "nodes"),
    ("impersonate", "users"),
]


# What the values of a gateway add, and what they must not.
GATEWAY = "gateway-rights"
GATEWAY_VALUES = {"gatewayApi": {"enabled": True, "certificates": {"secrets": ["example-com"]}}}
GATEWAY_NEEDED = [
    ("watch", "gatewayclasses.gateway.networking.k8s.io"),
    ("watch", "namespaces"),
    ("watch", "gateways.gateway.networking.k8s.io"),
    ("watch", "httproutes.gateway.networking.k8s.io"),
    ("watch", "referencegrants.gateway.networking.k8s.io"),
    ("create", "services"),
    ("delete", "services"),
    ("get", "secrets/example-com"),
    ("patch", "gateways.gateway.networking.k8s.io", "--subresource=status"),
    ("patch", "httproutes.gateway.networking.k8s.io", "--subresource=status"),
    ("patch", "gatewayclasses.gateway.networking.k8s.io", "--subresource=status"),
    ("patch", "inferencepools.inference.networking.k8s.io", "--subresource=status"),
]
GATEWAY_FORBIDDEN = [
    ("list", "secrets"),
    ("get", "secrets/other"),
    ("update", "secrets/example-com"),
    ("patch", "gateways.gateway.networking.k8s.io"),
    ("create", "gatewayclasses.gateway.networking.k8s.io"),
    ("patch", "namespaces"),
    ("create", "pods"),
]


def may(cluster, account, verb, kind, namespace=None, flags=()):
    """Whether the API server allows a service account an action."""
    who = f"system:serviceaccount:{cluster.namespace}:{account}"
    done = subprocess.run(
        ["kubectl", "auth", "can-i", verb, kind, "--as", who, "--namespace", namespace or cluster.namespace, *flags],
        capture_output=True, text=True, timeout=30,
    )
    return done.stdout.strip() == "yes"


@scenario
def the_control_plane_may_only_watch_its_sources_and_write_events(context):
    account = CONTROL_PLANE
    missing = [f"{verb} {kind}" for verb, kind in NEEDED + NEEDED_HERE if not may(context.cluster, account, verb, kind)]
    excess = [f"{verb} {kind}" for verb, kind in FORBIDDEN if may(context.cluster, account, verb, kind)]
    elsewhere = [f"{verb} {kind}" for verb, kind in NEEDED + NEEDED_HERE
                 if may(context.cluster, account, verb, kind, "kube-system")]
    assert not missing, f"cannot: {missing}"
    assert not excess, f"can: {excess}"
    assert not elsewhere, f"can in a namespace that is not configured: {elsewhere}"


@scenario
def the_data_plane_has_no_permissions_and_no_token(context):
    account = DATA_PLANE
    allowed = [f"{verb} {kind}" for verb, kind in NEEDED + NEEDED_HERE + FORBIDDEN
               if may(context.cluster, account, verb, kind)]
    assert not allowed, f"can: {allowed}"
    for pod in context.cluster.ready_pods(context.data_plane):
        mounts = [mount["mountPath"] for one in pod["spec"]["containers"] for mount in one.get("volumeMounts", [])]
        assert not any("serviceaccount" in path for path in mounts), f"{name_of(pod)} mounts {mounts}"


@scenario
def a_gateway_may_read_the_secrets_that_are_named_and_write_services_and_status(context):
    cluster = context.cluster
    account = f"{GATEWAY}-{CONTROL_PLANE}"
    sets = ("--values", "-", "--show-only", "templates/gateway-api/rbac.yaml")
    rights = cluster.helm("template", GATEWAY, str(CHARTS / ROUTER), *sets, input=json.dumps(GATEWAY_VALUES))
    cluster.kubectl("apply", "--filename=-", input=rights)
    try:
        can = [f"{verb} {kind}" for verb, kind, *flags in GATEWAY_FORBIDDEN if may(cluster, account, verb, kind, None, flags)]
        cannot = [f"{verb} {kind}" for verb, kind, *flags in GATEWAY_NEEDED
                  if not may(cluster, account, verb, kind, None, flags)]
        elsewhere = may(cluster, account, "create", "services", "kube-system")
        assert not cannot, f"cannot: {cannot}"
        assert not can and not elsewhere, f"can: {can}, or create Services elsewhere: {elsewhere}"
    finally:
        cluster.kubectl("delete", "--filename=-", input=rights)


@scenario
def every_pod_meets_the_restricted_pod_security_standard(context):
    cluster = context.cluster
    namespace = cluster.ask("GET", f"/api/v1/namespaces/{cluster.namespace}")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in cluster.ready_pods(context.control_plane) + cluster.ready_pods(context.data_plane):
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"], name_of(pod)
