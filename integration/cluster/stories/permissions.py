"""What the service accounts may do: what they need, and nothing more."""

import subprocess

from kubernetes import name_of
from story import story
from world import CONTROL_PLANE, DATA_PLANE

# Verbs and resources, as `kubectl auth can-i` takes them.
NEEDED = [(verb, kind) for verb in ("list", "watch") for kind in ("services", "endpointslices.discovery.k8s.io")]
# It tells of refused configurations where `kubectl describe` shows it.
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
    """The API server's own answer for a service account."""
    who = f"system:serviceaccount:{cluster.namespace}:{account}"
    done = subprocess.run(
        ["kubectl", "auth", "can-i", verb, kind, "--as", who, "--namespace", namespace or cluster.namespace],
        capture_output=True, text=True, timeout=30,
    )
    return done.stdout.strip() == "yes"


@story
def the_control_plane_may_watch_its_sources_and_do_nothing_else(world):
    account = CONTROL_PLANE
    missing = [f"{verb} {kind}" for verb, kind in NEEDED + NEEDED_HERE if not may(world.cluster, account, verb, kind)]
    excess = [f"{verb} {kind}" for verb, kind in FORBIDDEN if may(world.cluster, account, verb, kind)]
    elsewhere = [f"{verb} {kind}" for verb, kind in NEEDED + NEEDED_HERE
                 if may(world.cluster, account, verb, kind, "kube-system")]
    assert not missing, f"cannot: {missing}"
    assert not excess, f"can: {excess}"
    assert not elsewhere, f"can in a namespace that nobody configured: {elsewhere}"


@story
def the_data_plane_may_do_nothing_and_holds_no_token(world):
    account = DATA_PLANE
    allowed = [f"{verb} {kind}" for verb, kind in NEEDED + NEEDED_HERE + FORBIDDEN
               if may(world.cluster, account, verb, kind)]
    assert not allowed, f"can: {allowed}"
    for pod in world.cluster.ready_pods(world.data_plane):
        mounts = [mount["mountPath"] for one in pod["spec"]["containers"] for mount in one.get("volumeMounts", [])]
        assert not any("serviceaccount" in path for path in mounts), f"{name_of(pod)} mounts {mounts}"


@story
def every_pod_runs_where_the_restricted_standard_is_enforced(world):
    cluster = world.cluster
    namespace = cluster.ask("GET", f"/api/v1/namespaces/{cluster.namespace}")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in cluster.ready_pods(world.control_plane) + cluster.ready_pods(world.data_plane):
        for container in pod["spec"]["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"], name_of(pod)
