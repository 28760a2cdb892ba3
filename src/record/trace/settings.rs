//! The standard variables of OpenTelemetry, as far as they concern traces by OTLP over HTTP.
//!
//! <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>; what is for traces alone goes before
//! what is for all signals. What cannot be done as it is said keeps the gateway from starting: an operator who asked for traces
//! is not to find out from their absence.

use std::{collections::HashMap, fmt, time::Duration};

use opentelemetry_sdk::trace::Sampler;
use percent_encoding::percent_decode_str;
use url::Url;

/// Where traces go, how many, and what they say of this process.
#[derive(Clone)]
pub struct TraceSettings {
    pub(super) endpoint: Url,
    /// They may hold credentials.
    pub(super) headers: HashMap<String, String>,
    pub(super) timeout: Duration,
    pub(super) sampler: Sampler,
    pub(super) resource: Vec<(String, String)>,
}

impl fmt::Debug for TraceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceSettings")
            .field("endpoint", &self.endpoint.host_str())
            .field("sampler", &self.sampler)
            .finish_non_exhaustive()
    }
}

/// A variable that says what is not understood here, or not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable `{variable}` {fault}")]
pub struct SettingsError {
    variable: &'static str,
    fault: &'static str,
}

impl TraceSettings {
    /// What the environment asks for, read by `variable`; nothing without an endpoint.
    pub fn read(variable: impl Fn(&'static str) -> Option<String>) -> Result<Option<Self>, SettingsError> {
        let variable =
            |name| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        if variable(DISABLED).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        match variable(EXPORTER).as_deref() {
            None | Some("otlp") => {}
            Some("none") => return Ok(None),
            Some(_) => return Err(SettingsError { variable: EXPORTER, fault: "must be `otlp` or `none`" }),
        }
        let Some(endpoint) = endpoint(&variable)? else { return Ok(None) };
        let either = |[first, second]: [&'static str; 2]| {
            variable(first)
                .map(|value| (first, value))
                .or_else(|| variable(second).map(|value| (second, value)))
        };
        if let Some((name, protocol)) = either(PROTOCOL)
            && protocol != "http/protobuf"
        {
            return Err(SettingsError {
                variable: name,
                fault: "must be `http/protobuf`: nothing else is spoken",
            });
        }
        if let Some((name, compression)) = either(COMPRESSION)
            && compression != "none"
        {
            return Err(SettingsError { variable: name, fault: "must be `none`: nothing is compressed" });
        }
        if let Some((name, _)) = either(CERTIFICATE) {
            let fault = "cannot be followed: the machine's own authorities are believed";
            return Err(SettingsError { variable: name, fault });
        }
        let headers = match either(HEADERS) {
            None => HashMap::new(),
            Some((name, text)) => pairs(name, &text)?.into_iter().collect(),
        };
        let timeout = match either(TIMEOUT) {
            None => TIMEOUT_DEFAULT,
            Some((name, text)) => {
                let fault = "must be a number of milliseconds, 1 to 600000";
                let parsed = text.parse().ok().filter(|ms| (1..=600_000).contains(ms));
                Duration::from_millis(parsed.ok_or(SettingsError { variable: name, fault })?)
            }
        };
        let mut resource = match variable(RESOURCE) {
            None => Vec::new(),
            Some(text) => pairs(RESOURCE, &text)?,
        };
        let service = variable(SERVICE).or_else(|| {
            resource.iter().rev().find(|(name, _)| name == "service.name").map(|(_, value)| value.clone())
        });
        resource.retain(|(name, _)| name != "service.name");
        resource.push(("service.name".to_owned(), service.unwrap_or_else(|| "sandgate".to_owned())));
        if !resource.iter().any(|(name, _)| name == "service.version") {
            resource.push(("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
        }
        let sampler = sampler(variable(SAMPLER).as_deref(), variable(SAMPLER_ARG).as_deref())?;
        Ok(Some(Self { endpoint, headers, timeout, sampler, resource }))
    }
}

/// One for traces is taken as it is; to one for all signals the signal's path is added.
fn endpoint(variable: &impl Fn(&'static str) -> Option<String>) -> Result<Option<Url>, SettingsError> {
    let (name, text) = match (variable(TRACES_ENDPOINT), variable(ENDPOINT)) {
        (Some(own), _) => (TRACES_ENDPOINT, own),
        (None, Some(base)) => (ENDPOINT, format!("{}/v1/traces", base.trim_end_matches('/'))),
        (None, None) => return Ok(None),
    };
    let fault = SettingsError { variable: name, fault: "must be an http or https URL" };
    let url = Url::parse(&text).map_err(|_| fault.clone())?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(fault);
    }
    Ok(Some(url))
}

fn sampler(name: Option<&str>, argument: Option<&str>) -> Result<Sampler, SettingsError> {
    let ratio = || {
        let fault = SettingsError { variable: SAMPLER_ARG, fault: "must be a number from 0 to 1" };
        let Some(text) = argument else { return Ok(Sampler::TraceIdRatioBased(1.0)) };
        let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio)).ok_or(fault)?;
        Ok(Sampler::TraceIdRatioBased(ratio))
    };
    let by_parent = |root: Sampler| Sampler::ParentBased(Box::new(root));
    match name.unwrap_or("parentbased_always_on") {
        "always_on" => Ok(Sampler::AlwaysOn),
        "always_off" => Ok(Sampler::AlwaysOff),
        "traceidratio" => ratio(),
        "parentbased_always_on" => Ok(by_parent(Sampler::AlwaysOn)),
        "parentbased_always_off" => Ok(by_parent(Sampler::AlwaysOff)),
        "parentbased_traceidratio" => Ok(by_parent(ratio()?)),
        _ => Err(SettingsError { variable: SAMPLER, fault: "names no sampler that is known here" }),
    }
}

/// `name=value,name=value`, values percent-encoded.
fn pairs(variable: &'static str, text: &str) -> Result<Vec<(String, String)>, SettingsError> {
    let fault = SettingsError { variable, fault: "must be `name=value` pairs apart by commas" };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let name = name.trim();
        (!name.is_empty()).then(|| (name.to_owned(), value.into_owned()))
    };
    let written = text.split(',').filter(|part| !part.trim().is_empty());
    written.map(|part| pair(part).ok_or(fault.clone())).collect()
}

const DISABLED: &str = "OTEL_SDK_DISABLED";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const PROTOCOL: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const COMPRESSION: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
const CERTIFICATE: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const TIMEOUT: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const SERVICE: &str = "OTEL_SERVICE_NAME";
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
/// Of the specification.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Option<TraceSettings>, SettingsError> {
        TraceSettings::read(|name| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    const AT: (&str, &str) = (ENDPOINT, "http://collector:4318/");

    #[test]
    fn nothing_is_sent_unless_an_endpoint_is_named_and_nothing_forbids_it() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[(ENDPOINT, " ")]).unwrap().is_none());
        assert!(read(&[AT, (DISABLED, "TRUE")]).unwrap().is_none());
        assert!(read(&[AT, (EXPORTER, "none")]).unwrap().is_none());
        let settings = read(&[AT, (DISABLED, "false"), (EXPORTER, "otlp")]).unwrap().unwrap();
        assert_eq!(settings.endpoint.as_str(), "http://collector:4318/v1/traces");
        let own = read(&[AT, (TRACES_ENDPOINT, "https://other/x")]).unwrap().unwrap();
        assert_eq!(own.endpoint.as_str(), "https://other/x");
    }

    #[test]
    fn what_is_said_for_traces_goes_before_what_is_said_for_all() {
        let settings = read(&[
            AT,
            (HEADERS[1], "a=1"),
            (HEADERS[0], "authorization=Basic%20Zm9v, x = 2,"),
            (TIMEOUT[1], "7"),
            (SERVICE, "gate"),
            (RESOURCE, "service.name=other,deployment.environment.name=a%2Cb"),
        ]);
        let settings = settings.unwrap().unwrap();
        let mut headers: Vec<_> = settings.headers.iter().collect();
        headers.sort();
        assert_eq!(format!("{headers:?}"), r#"[("authorization", "Basic Zm9v"), ("x", "2")]"#);
        assert_eq!(settings.timeout, Duration::from_millis(7));
        let told: Vec<String> =
            settings.resource.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let version = format!("service.version={}", env!("CARGO_PKG_VERSION"));
        assert_eq!(told, ["deployment.environment.name=a,b", "service.name=gate", &version]);
        assert!(!format!("{settings:?}").contains("Zm9v"), "{settings:?}");
    }

    #[test]
    fn what_cannot_be_done_is_told_by_the_name_of_its_variable() {
        for (set, told) in [
            ((ENDPOINT, "collector:4318"), ENDPOINT),
            ((TRACES_ENDPOINT, "ftp://collector"), TRACES_ENDPOINT),
            ((EXPORTER, "zipkin"), EXPORTER),
            ((PROTOCOL[1], "grpc"), PROTOCOL[1]),
            ((PROTOCOL[0], "http/json"), PROTOCOL[0]),
            ((COMPRESSION[1], "gzip"), COMPRESSION[1]),
            ((CERTIFICATE[1], "ca.pem"), CERTIFICATE[1]),
            ((HEADERS[1], "no pair"), HEADERS[1]),
            ((TIMEOUT[1], "10s"), TIMEOUT[1]),
            ((RESOURCE, "=x"), RESOURCE),
            ((SAMPLER, "xray"), SAMPLER),
        ] {
            let error = read(&[set, AT]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{told}`")), "{error}");
        }
        for bad in ["2", "-0.1", "NaN", "half"] {
            let set = [AT, (SAMPLER, "parentbased_traceidratio"), (SAMPLER_ARG, bad)];
            assert_eq!(read(&set).unwrap_err().variable, SAMPLER_ARG, "{bad}");
        }
    }
}
