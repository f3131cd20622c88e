//! Claims about the `OTEL_*` variables.

use super::*;
use opentelemetry::Key;
use proptest::prelude::*;

const SERVICE: Service = Service {
    name: "hermes-test",
    version: "1.2.3",
};
const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

fn read(variables: &[(&str, &str)]) -> Result<Option<TelemetrySettings>, TelemetryError> {
    let environment = |name: &str| {
        variables
            .iter()
            .find(|(set, _)| *set == name)
            .map(|(_, value)| (*value).to_owned())
    };
    TelemetrySettings::read(&environment, SERVICE)
}

fn settings(variables: &[(&str, &str)]) -> TelemetrySettings {
    read(variables)
        .expect("understood")
        .expect("traces are asked for")
}

fn error(variables: &[(&str, &str)]) -> String {
    read(variables).expect_err("not understood").to_string()
}

#[test]
fn without_an_endpoint_there_are_no_traces() {
    assert!(read(&[]).expect("understood").is_none());
    assert!(
        read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")])
            .expect("understood")
            .is_none()
    );
}

#[test]
fn the_standard_switches_turn_traces_off() {
    for switch in [
        ("OTEL_SDK_DISABLED", "TRUE"),
        ("OTEL_TRACES_EXPORTER", "none"),
    ] {
        assert!(
            read(&[COLLECTOR, switch]).expect("understood").is_none(),
            "{switch:?}"
        );
    }
    for switch in [
        ("OTEL_SDK_DISABLED", "false"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
    ] {
        assert!(
            read(&[COLLECTOR, switch]).expect("understood").is_some(),
            "{switch:?}"
        );
    }
}

#[test]
fn the_general_endpoint_is_a_base_and_the_one_for_traces_is_whole() {
    assert_eq!(
        settings(&[COLLECTOR]).endpoint,
        "http://collector:4318/v1/traces"
    );
    let with_base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector/base/");
    assert_eq!(
        settings(&[with_base]).endpoint,
        "https://collector/base/v1/traces"
    );
    let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces/in");
    assert_eq!(settings(&[COLLECTOR, whole]).endpoint, "http://traces/in");
    let grpc = settings(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ]);
    assert_eq!(grpc.endpoint, "http://collector:4317/");
}

#[test]
fn the_variable_for_traces_wins() {
    let settings = settings(&[
        COLLECTOR,
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "500"),
    ]);
    assert_eq!(settings.protocol, Protocol::Grpc);
    assert_eq!(settings.timeout, Duration::from_millis(500));
}

#[test]
fn a_guessed_protocol_on_the_grpc_port_is_doubtful() {
    let port = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    assert!(settings(&[port]).doubtful_protocol);
    assert!(!settings(&[port, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).doubtful_protocol);
    assert!(!settings(&[COLLECTOR]).doubtful_protocol);
}

#[test]
fn the_service_name_has_three_sources_in_order() {
    let name = |variables: &[(&str, &str)]| {
        let resource = settings(variables).resource;
        resource
            .get(&Key::from_static_str("service.name"))
            .map(|value| value.to_string())
    };
    let attributes = (
        "OTEL_RESOURCE_ATTRIBUTES",
        "service.name=from%20attributes,k8s.pod.name=p-0",
    );
    assert_eq!(name(&[COLLECTOR]).as_deref(), Some("hermes-test"));
    assert_eq!(
        name(&[COLLECTOR, attributes]).as_deref(),
        Some("from attributes")
    );
    assert_eq!(
        name(&[COLLECTOR, attributes, ("OTEL_SERVICE_NAME", "own")]).as_deref(),
        Some("own")
    );

    let resource = settings(&[COLLECTOR, attributes]).resource;
    assert_eq!(
        resource
            .get(&Key::from_static_str("k8s.pod.name"))
            .map(|value| value.to_string())
            .as_deref(),
        Some("p-0")
    );
    assert_eq!(
        resource
            .get(&Key::from_static_str("service.version"))
            .map(|value| value.to_string())
            .as_deref(),
        Some("1.2.3")
    );
}

#[test]
fn broken_values_are_errors_that_name_the_variable() {
    for (variable, broken) in [
        ("OTEL_SDK_DISABLED", "maybe"),
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_TRACES_SAMPLER", "some"),
        ("OTEL_RESOURCE_ATTRIBUTES", "no-equals-sign"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "no-equals-sign"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://collector"),
    ] {
        let message = error(&[COLLECTOR, (variable, broken)]);
        assert!(
            message.starts_with(variable) && message.contains("expected"),
            "{message}"
        );
    }
}

#[test]
fn grpc_over_tls_is_refused_with_the_way_out() {
    let message = error(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ]);
    assert!(message.contains("http/protobuf"), "{message}");
}

#[test]
fn secrets_are_in_no_message_and_no_debug_output() {
    let headers = (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "authorization=Bearer%20hunter2, x-tenant=blue",
    );
    let read = settings(&[COLLECTOR, headers]);
    assert_eq!(read.headers["authorization"], "Bearer hunter2");
    assert_eq!(read.headers["x-tenant"], "blue");
    assert!(!format!("{read:?}").contains("hunter2"));

    let broken = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2%zz"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://user:hunter2@collector",
        ),
    ];
    for variable in broken {
        assert!(
            !error(&[COLLECTOR, variable]).contains("hunter2"),
            "{variable:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_value_panics_and_a_refusal_names_its_variable(value in ".{0,60}", which in 0usize..5) {
        let names = [ENDPOINT[0], HEADERS[1], RESOURCE_ATTRIBUTES, PROTOCOL[0], "OTEL_TRACES_SAMPLER"];
        if let Err(refusal) = read(&[COLLECTOR, (names[which], value.as_str())]) {
            prop_assert!(refusal.to_string().starts_with(names[which]));
        }
    }
}
