//! The standard variables of OpenTelemetry, as far as they say whether and how traces are exported.
//!
//! Owns that reading. What the SDK does with the others (sampler, batches, resource) is its own business.

use super::values::variable;
use crate::redact::Secret;
use crate::telemetry::traces::TracesConfig;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

/// How long a collector may take to answer where nobody says.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the environment says of traces.
pub(super) fn traces(environment: &BTreeMap<OsString, OsString>) -> TracesConfig {
    let set = |name: &str| variable(environment, name).map(|value| value.trim().to_owned()).filter(|v| !v.is_empty());
    // The variable of traces alone wins.
    let of_traces = |name: &str| {
        set(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}")).or_else(|| set(&format!("OTEL_EXPORTER_OTLP_{name}")))
    };
    let is_disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if is_disabled || of_traces("ENDPOINT").is_none() {
        return TracesConfig::Off;
    }
    let exporters = set("OTEL_TRACES_EXPORTER").unwrap_or_else(|| "otlp".to_owned());
    if exporters == "none" {
        return TracesConfig::Off;
    }
    if !exporters.split(',').any(|exporter| exporter.trim() == "otlp") {
        return TracesConfig::Refused(format!("OTEL_TRACES_EXPORTER is \"{exporters}\", and only otlp is there"));
    }
    let json = match of_traces("PROTOCOL").as_deref() {
        None | Some("http/protobuf") => false,
        Some("http/json") => true,
        Some(other) => {
            let text = "and only http/protobuf and http/json are there; collectors take those on port 4318";
            return TracesConfig::Refused(format!("OTEL_EXPORTER_OTLP_PROTOCOL is \"{other}\", {text}"));
        }
    };
    let timeout = of_traces("TIMEOUT").and_then(|timeout| timeout.parse().ok()).map(Duration::from_millis);
    TracesConfig::On { json, timeout: timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(TIMEOUT) }
}

/// What is sent to a collector to be let in. The names of the variables do not say that they are secret.
pub(super) fn secrets(environment: &BTreeMap<OsString, OsString>) -> Vec<Secret> {
    let names = ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"];
    let lists: Vec<&str> = names.iter().filter_map(|name| variable(environment, name)).collect();
    let pairs = lists.iter().flat_map(|list| list.split(','));
    let values = pairs.filter_map(|pair| Some(pair.split_once('=')?.1.trim()));
    // As short ones in other variables, they are too likely to be ordinary words.
    values.filter(|value| value.chars().nth(7).is_some()).map(Secret::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<OsString, OsString> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn nothing_is_exported_unless_a_collector_is_named() {
        let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318");
        for off in [
            &[][..],
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")],
            &[("OTEL_SERVICE_NAME", "x")],
            &[on, ("OTEL_SDK_DISABLED", "True")],
            &[on, ("OTEL_TRACES_EXPORTER", "none")],
        ] {
            assert_eq!(traces(&environment(off)), TracesConfig::Off, "{off:?}");
        }
        for refused in [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), ("OTEL_TRACES_EXPORTER", "zipkin")] {
            let found = traces(&environment(&[on, refused]));
            assert!(matches!(&found, TracesConfig::Refused(text) if text.contains(refused.1)), "{found:?}");
        }
    }

    #[test]
    fn the_variable_of_traces_alone_wins() {
        let found = traces(&environment(&[
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4318/v1/traces"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ]));
        assert_eq!(found, TracesConfig::On { json: true, timeout: Duration::from_millis(250) });
    }

    #[test]
    fn what_lets_us_in_is_secret() {
        let found = secrets(&environment(&[("OTEL_EXPORTER_OTLP_HEADERS", "api-key=0123456789, team = a ,x")]));
        assert_eq!(found, [Secret::new("0123456789")]);
    }
}
