"""One trace from the client to the engine, in a real collector and a real backend beside the cluster."""

import copy
import os
import re
import secrets
from contextlib import ExitStack
from pathlib import Path

import install
from beside import document, page, start
from figures import seconds
from kubernetes import service_path, until
from story import story
from world import ENGINE, ENGINES, ROUTER

# Ports on the node: of the collector, and of the backend.
COLLECTOR, BACKEND = 4317, 6006


class Backend:
    """The collector Rotel, which writes down every span with its kind, and hands all on to Phoenix, which has a UI."""

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
        """The spans of one trace, as Phoenix tells them."""
        listed = document(BACKEND, "/v1/projects/default/spans/otlpv1?limit=1000")
        return [span for span in listed["data"] if span["trace_id"] == trace]

    def kinds(self):
        """The kind of each span by its id, as the collector received it: Phoenix calls all of them internal."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(encoding="utf-8", errors="replace"))
        return dict(re.findall(r"^ +ID +: (\w{16})$.*?^ +Kind +: SPAN_KIND_(\w+)$", text, re.DOTALL | re.MULTILINE))


def traced(values, endpoint):
    values = copy.deepcopy(values)
    values["otel"] = {"endpoint": endpoint}
    return values


@story
def one_trace_leads_from_the_client_through_both_planes_to_the_engine(world):
    tools = os.environ.get("HERMES_TRACING")
    if not (world.own and tools):
        print("    left out: no backend is installed (HERMES_TRACING=1 …/run installs one), or none can run beside this cluster")
        return
    node = os.environ["HERMES_NODE"]
    with ExitStack() as stack:
        backend = Backend(Path(tools), Path(os.environ["HERMES_TRIAL_STATE"]), stack)
        collector = f"http://{node}:{COLLECTOR}"
        world.install(ENGINES, traced(install.ENGINE_VALUES, collector), "--force-conflicts")
        world.install(ROUTER, traced(install.ROUTER_VALUES, collector), "--force-conflicts")
        world.rolled_out(ENGINE, f"{ROUTER}-control-plane", f"{ROUTER}-data-plane")
        trace, client = secrets.token_hex(16), secrets.token_hex(8)
        ask(world, trace, client)
        spans = until("the whole trace is at the backend", lambda: whole(backend.spans(trace)), 30, every=0.5)
        check(spans, client, backend.kinds())
        world.figures.note("spans of one chat, client to engine", ", ".join(
            f"{span['name']} {seconds(duration(span))}" for span in in_order(spans)))


def ask(world, trace, client):
    body = {"model": world.model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20, "stream": True}
    path = service_path(world.cluster, f"{ROUTER}-data-plane", 8000, "/v1/chat/completions")
    status, _, _ = world.cluster.request("POST", path, body, headers={"traceparent": f"00-{trace}-{client}-01"})
    assert status == 200, status


def whole(spans):
    names = {span["name"] for span in spans}
    return "llm_request" in names and len(spans) >= 4 and spans


def in_order(spans):
    return sorted(spans, key=lambda span: int(span["start_time_unix_nano"]))


def parent(span):
    return span.get("parent_span_id") or span.get("parent_id")


def duration(span):
    return (int(span["end_time_unix_nano"]) - int(span["start_time_unix_nano"])) / 1e9


def check(spans, client, kinds):
    """Parents and kinds: each span below the one that caused it."""
    by_id = {span["span_id"]: span for span in spans}
    [root] = [span for span in spans if parent(span) not in by_id]
    assert parent(root) == client, f"the first span's parent is {root['parent_id']}, not the client's {client}"
    [engine] = [span for span in spans if span["name"] == "llm_request"]
    attempt = by_id[parent(engine)]
    assert parent(attempt) == root["span_id"], "the engine's span is not below the proxy's attempt"
    wanted = {root["span_id"]: "SERVER", attempt["span_id"]: "CLIENT", engine["span_id"]: "SERVER"}
    seen = {span: kinds.get(span) for span in wanted}
    assert seen == wanted, f"kinds {seen}, expected {wanted}"
    assert any("score" in span["name"].lower() for span in spans), [span["name"] for span in spans]
