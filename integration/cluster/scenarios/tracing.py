"""One trace from the client to the engine, in a real collector and a real backend outside the cluster."""

import copy
import os
import re
import secrets
from contextlib import ExitStack
from pathlib import Path

import install
from local_process import document, page, start
from kubernetes import until
from scenario import Skipped, scenario
from context import ENGINE, ENGINES, PLANES, ROUTER

# Ports on the node: of the collector, and of the backend.
COLLECTOR, BACKEND = 4317, 6006
# The status code of OTLP.
ERROR = 2


class Backend:
    """The collector Rotel, which logs every span with its kind and exports all spans to the backend Phoenix."""

    def __init__(self, tools, state, stack):
        self.log = state / "collector.log"
        phoenix = {"PHOENIX_PORT": str(BACKEND), "PHOENIX_HOST": "0.0.0.0", "PHOENIX_GRPC_PORT": "4319",
                   "PHOENIX_WORKING_DIR": str(state / "phoenix"), "PHOENIX_TELEMETRY_ENABLED": "false"}
        start(stack, [tools / "bin/phoenix", "serve"], state / "phoenix.log", phoenix)
        until("Phoenix answers", lambda: page(BACKEND, "/healthz") is not None, 120, every=0.5)
        agent = next(tools.glob("lib/python3*/site-packages/rotel/rotel-agent"))
        onward = f"http://127.0.0.1:{BACKEND}"
        start(stack, [
            agent, "start", "--otlp-grpc-endpoint", f"0.0.0.0:{COLLECTOR}",
            "--debug-log", "traces", "--debug-log-verbosity", "detailed", "--exporter", "otlp",
            "--otlp-exporter-protocol", "http", "--otlp-exporter-traces-endpoint", f"{onward}/v1/traces",
            "--otlp-exporter-metrics-endpoint", f"{onward}/v1/metrics",
            "--otlp-exporter-logs-endpoint", f"{onward}/v1/logs",
        ], self.log)

    def spans(self, trace):
        """The spans of one trace, as Phoenix returns them."""
        listed = document(BACKEND, "/v1/projects/default/spans/otlpv1?limit=1000")
        return [span for span in listed["data"] if span["trace_id"] == trace]

    def kinds(self):
        """The kind of each span by its id, as the collector received it: Phoenix reports all as internal."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(encoding="utf-8", errors="replace"))
        return dict(re.findall(r"^ +ID +: (\w{16})$.*?^ +Kind +: SPAN_KIND_(\w+)$", text, re.DOTALL | re.MULTILINE))


def traced(values, endpoint):
    values = copy.deepcopy(values)
    values["otel"] = {"endpoint": endpoint}
    return values


@scenario
def one_trace_leads_from_the_client_through_both_planes_to_the_engine(context):
    tools = os.environ.get("HERMES_TRACING")
    if not (context.own and tools):
        raise Skipped("HERMES_TRACING is 0, or the cluster is not local")
    node = os.environ["HERMES_NODE"]
    with ExitStack() as stack:
        backend = Backend(Path(tools), Path(os.environ["HERMES_TRIAL_STATE"]), stack)
        collector = f"http://{node}:{COLLECTOR}"
        context.install(ENGINES, traced(install.ENGINE_VALUES, collector), "--force-conflicts")
        context.install(ROUTER, traced(install.ROUTER_VALUES, collector), "--force-conflicts")
        context.rolled_out(ENGINE, *PLANES)
        until("proxies are connected to all replicas", lambda: connected_replicas(context) == [2, 2], 30)
        trace, client = send_chat(context, 200)
        spans = until("the whole trace is at the backend", lambda: complete(backend.spans(trace)), 30, every=0.5)
        check(spans, client, backend.kinds())
        context.figures.note("spans of one chat, client to engine", ", ".join(
            f"{span['name']} {1000 * duration(span):.1f} ms" for span in in_order(spans)))

        # Without engines the server span records the error.
        context.cluster.scale(ENGINE, 0)
        until("all engines are deleted", lambda: not context.cluster.list("pods", context.engines), 90)
        until("proxies have no endpoints", lambda: endpoints(context) == [0, 0], 10)
        trace, client = send_chat(context, 503)
        failed = until("its trace is at the backend", lambda: server_of(backend.spans(trace)), 30, every=0.5)
        status, reported = failed["status"], attributes(failed)
        assert parent(failed) == client and status["code"] == ERROR, failed
        assert reported["error.type"] == "no_healthy_upstream", failed


def connected_replicas(context):
    """The number of control-plane replicas that each proxy is connected to."""
    return [page.sum("hermes_connected_control_planes") for page in context.data_plane_metrics().values()]


def endpoints(context):
    """The number of endpoints in each proxy's snapshot."""
    return [sum(len(pool["endpoints"]) for pool in page["snapshot"]["pools"]) for page in context.snapshots()]


def send_chat(context, expected):
    """Sends one chat with a new trace context. Returns the ids of the trace and of the client's span."""
    trace, client = secrets.token_hex(16), secrets.token_hex(8)
    status, _ = context.chat("hello", stream=True, headers={"traceparent": f"00-{trace}-{client}-01"})
    assert status == expected, status
    return trace, client


def server_of(spans):
    return next((span for span in spans if span["name"].startswith("POST ")), None)


def complete(spans):
    return {"score", "llm_request"} <= {span["name"] for span in spans} and len(spans) == 5 and spans


def attributes(span):
    """The attributes of a span in Phoenix's format: each value has a key for each type, all but one null."""
    def value(of):
        return next((one for one in of.values() if one is not None), None)

    return {one["key"]: value(one["value"]) for one in span["attributes"]}


def in_order(spans):
    return sorted(spans, key=lambda span: int(span["start_time_unix_nano"]))


def parent(span):
    return span.get("parent_span_id") or span.get("parent_id")


def duration(span):
    return (int(span["end_time_unix_nano"]) - int(span["start_time_unix_nano"])) / 1e9


def check(spans, client, kinds):
    """Asserts the parent and kind of each span, and the attributes of the server, route and score spans."""
    named = {span["name"]: span for span in spans}
    server, route, attempt = named["POST /v1/chat/completions"], named["route"], named["chat sim"]
    score, engine = named["score"], named["llm_request"]
    below = {"client": client, **{name: span["span_id"] for name, span in named.items()}}
    expected = [
        (server, "client", "SERVER"),
        (route, server["name"], "INTERNAL"),
        (score, route["name"], "INTERNAL"),
        (attempt, server["name"], "CLIENT"),
        (engine, attempt["name"], "SERVER"),
    ]
    for span, above, kind in expected:
        assert parent(span) == below[above], f"{span['name']} is not a child of {above}"
        assert kinds.get(span["span_id"]) == kind, f"{span['name']} is {kinds.get(span['span_id'])}, not {kind}"
        assert span["status"]["code"] != ERROR, span
    reported = attributes(server)
    assert reported["hermes.pool"] == reported["gen_ai.request.model"] == "sim", reported
    assert reported["hermes.outcome"] == "ok" and int(reported["http.response.status_code"]) == 200, reported
    assert float(reported["gen_ai.response.time_to_first_chunk"]) > 0, reported
    assert attributes(route)["hermes.decided_by"] == "score", attributes(route)
    assert attributes(score)["hermes.endpoint"] == reported["hermes.endpoint"], (attributes(score), reported)
    assert "hello" not in str(spans), "a prompt is in a span"
