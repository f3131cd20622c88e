"""The service accounts have the permissions that they need, and no others."""

import subprocess

from kubernetes import name_of
from scenario import scenario
from context import CONTROL_PLANE, DATA_PLANE

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


def may(cluster, account, verb, kind, namespace=None):
    """Whether the API server allows a service account an action."""
    who = f"system:serviceaccount:{cluster.namespace}:{account}"
    done = subprocess.run(
        ["kubectl", "auth", "can-i", verb, kind, "--as", who, "--namespace", namespace or cluster.namespace],
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
def every_pod_meets_the_restricted_pod_security_standard(context):
    cluster = context.cluster
    namespace = cluster.ask("GET", f"/api/v1/namespaces/{cluster.namespace}")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in cluster.ready_pods(context.control_plane) + cluster.ready_pods(context.data_plane):
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"], name_of(pod)
