//! Whose scripts may call a tenant from a browser: `[cors]` of tenant.toml.

use serde::Deserialize;
use toml::Spanned;

use super::{
    diagnostic::{Diagnostic, Source},
    origin::Origin,
};

/// `[cors]`, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawCors {
    /// Origins, each exactly as browsers send it.
    #[serde(default)]
    pub origins: Vec<Spanned<String>>,
}

impl RawCors {
    /// Tells the origins that no browser would ever send, or that would mean more than one.
    pub(super) fn check(&self, source: &Source, told: &mut Vec<Diagnostic>) {
        for origin in &self.origins {
            if !is_origin(origin.get_ref()) {
                let message = format!("`{}` is not an origin that can be listed", origin.get_ref());
                told.push(Diagnostic::fault(message).at(source, origin.span()).hint(
                    "`https://`, a host in lower case and perhaps a port other than 443; `http://` for localhost only; \
                     no `*`, no `null`, no slash at the end",
                ));
            }
        }
        if self.origins.len() > MAX_ORIGINS
            && let Some(last) = self.origins.last()
        {
            let message = format!("more than {MAX_ORIGINS} origins are listed");
            told.push(Diagnostic::fault(message).at(source, last.span()));
        }
    }
}

/// Whether a text is an origin in its one spelling (RFC 6454 §6.2). Scripts that came over plain http can be anybody's,
/// but for those of the same machine.
fn is_origin(text: &str) -> bool {
    let local = |text: &str| {
        let url = url::Url::parse(text).ok()?;
        let named = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        Some(named && url.scheme() == "http" && url.origin().ascii_serialization() == text)
    };
    text.parse::<Origin>().is_ok() || local(text) == Some(true)
}

/// Most origins of one tenant: each request that names one is held against all of them.
const MAX_ORIGINS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c11_an_origin_is_listed_as_a_browser_sends_it_and_none_stands_for_many() {
        for good in [
            "https://app.example",
            "https://app.example:8443",
            "http://localhost:3000",
            "https://xn--bcher-kva.example",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "*",
            "null",
            "",
            "https://*.example",
            "https://app.example/",
            "https://App.example",
            "https://app.example:443",
            "https://user@app.example",
            "http://app.example",
            "https://bücher.example",
            "file:///",
            "app.example",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
