//! Environment variables: the only place that reads any, so that what they can change is known.

use std::io::IsTerminal as _;

/// What `SANDGATE_LOG` asks to be logged, in the form `info,sandgate::authn=debug`.
pub fn log_filter() -> Option<String> {
    variable("SANDGATE_LOG")
}

/// A variable of OpenTelemetry's, such as `OTEL_EXPORTER_OTLP_ENDPOINT`: `record::trace` knows what they mean. (The library that
/// sends reads those of the sender itself too, and finds what it was told already.)
pub fn open_telemetry(name: &'static str) -> Option<String> {
    if name.starts_with("OTEL_") { variable(name) } else { None }
}

/// Whether reports on standard error are coloured: on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
pub fn colour() -> bool {
    std::io::stderr().is_terminal() && variable("NO_COLOR").is_none()
}

/// Whether answers on standard output are coloured.
pub fn colour_out() -> bool {
    std::io::stdout().is_terminal() && variable("NO_COLOR").is_none()
}

#[expect(clippy::disallowed_methods, reason = "this is the place in `site` where it is read")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
