"""envoy.yaml as Envoy Gateway configures Envoy by the policies of the chart.

Envoy knows the endpoints, as those of a Service, and sends a request to the one that a header names; and calls of gRPC
have a time limit, which must not end the stream to the picker.
"""

from __future__ import annotations

CALL_LIMIT_SECONDS = 1

CLUSTER = """\
  - name: endpoints
    type: STATIC
    connect_timeout: 5s
    load_balancing_policy:
      policies:
      - typed_extension_config:
          name: envoy.load_balancing_policies.override_host
          typed_config:
            "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost
            override_host_sources: [{header: x-gateway-destination-endpoint}]
            fallback_policy:
              policies:
              - typed_extension_config:
                  name: envoy.load_balancing_policies.round_robin
                  typed_config:
                    "@type": type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin
    load_assignment:
      cluster_name: endpoints
      endpoints:
      - lb_endpoints:
"""
PICKER = "                envoy_grpc: {cluster_name: picker}\n"


def with_known_endpoints(config: str, ports: list[int]) -> str:
    """The configuration for the endpoints at these ports."""
    begin, end = config.index("  # The endpoint of each request"), config.index("  - name: picker")
    addresses = [f"{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}" for port in ports]
    endpoints = "".join(f"        - endpoint: {{address: {address}}}\n" for address in addresses)
    assert PICKER in config, "envoy.yaml has changed"
    config = config[:begin] + CLUSTER + endpoints + config[end:]
    return config.replace(PICKER, f"{PICKER}                timeout: {CALL_LIMIT_SECONDS}s\n")
