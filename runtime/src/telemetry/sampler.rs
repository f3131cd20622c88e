//! `OTEL_TRACES_SAMPLER` and its argument, read strictly: the SDK's own reader falls back to
//! sampling everything when it does not know a name.

use super::{Environment, TelemetryError};
use opentelemetry_sdk::trace::Sampler;

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The sampler that the environment names; `parentbased_always_on` when it names none.
pub(super) fn read(environment: &impl Environment) -> Result<Sampler, TelemetryError> {
    let name = environment.value(SAMPLER);
    let (root, follows_parent) = match name.as_deref() {
        None | Some("parentbased_always_on") => (Sampler::AlwaysOn, true),
        Some("parentbased_always_off") => (Sampler::AlwaysOff, true),
        Some("parentbased_traceidratio") => (Sampler::TraceIdRatioBased(ratio(environment)?), true),
        Some("always_on") => (Sampler::AlwaysOn, false),
        Some("always_off") => (Sampler::AlwaysOff, false),
        Some("traceidratio") => (Sampler::TraceIdRatioBased(ratio(environment)?), false),
        Some(unknown) => {
            return Err(TelemetryError::Invalid {
                variable: SAMPLER,
                value: unknown.to_owned(),
                expected: "always_on, always_off or traceidratio, or one of them after `parentbased_`",
            });
        }
    };
    Ok(if follows_parent {
        Sampler::ParentBased(Box::new(root))
    } else {
        root
    })
}

/// The share of traces to sample; all of them when unset, as the specification says.
fn ratio(environment: &impl Environment) -> Result<f64, TelemetryError> {
    let Some(value) = environment.value(SAMPLER_ARG) else {
        return Ok(1.0);
    };
    let ratio = value
        .parse()
        .ok()
        .filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or(TelemetryError::Invalid {
        variable: SAMPLER_ARG,
        value,
        expected: "a number from 0 to 1",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(name: &'static str, arg: &'static str) -> Result<String, String> {
        let environment = move |variable: &str| match variable {
            SAMPLER => Some(name.to_owned()),
            SAMPLER_ARG => Some(arg.to_owned()),
            _ => None,
        };
        read(&environment)
            .map(|sampler| format!("{sampler:?}"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_standard_name_is_known() {
        assert_eq!(sampler("", "").as_deref(), Ok("ParentBased(AlwaysOn)"));
        assert_eq!(sampler("always_on", "").as_deref(), Ok("AlwaysOn"));
        assert_eq!(sampler("always_off", "").as_deref(), Ok("AlwaysOff"));
        assert_eq!(
            sampler("traceidratio", "0.25").as_deref(),
            Ok("TraceIdRatioBased(0.25)")
        );
        assert_eq!(
            sampler("traceidratio", "").as_deref(),
            Ok("TraceIdRatioBased(1.0)")
        );
        assert_eq!(
            sampler("parentbased_always_off", "").as_deref(),
            Ok("ParentBased(AlwaysOff)")
        );
        assert_eq!(
            sampler("parentbased_traceidratio", "0").as_deref(),
            Ok("ParentBased(TraceIdRatioBased(0.0))")
        );
    }

    #[test]
    fn unknown_names_and_broken_ratios_are_errors_that_name_the_variable() {
        let error = sampler("ratio", "").expect_err("not a sampler");
        assert!(
            error.starts_with("OTEL_TRACES_SAMPLER=`ratio` is not understood"),
            "{error}"
        );
        for broken in ["1.5", "-0.1", "NaN", "half"] {
            let error = sampler("traceidratio", broken).expect_err("not a ratio");
            assert!(error.starts_with("OTEL_TRACES_SAMPLER_ARG="), "{error}");
        }
    }
}
