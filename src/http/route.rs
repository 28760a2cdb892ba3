//! From a request target to names, without ever changing the text: what cannot be a plain path is refused, not normalised.
//!
//! A path that was normalised is a path that two programs may read differently (CWE-436), so nothing is decoded here but
//! to look for what must not be there (hardening C6).

use crate::id::{FunctionName, TenantName};

/// Longest request target, in bytes (hardening C2).
pub const MAX_TARGET_BYTES: usize = 4096;

/// What a request target names.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// The tenant, whether or not there is one of that name.
    pub tenant: TenantName,
    /// The function, likewise.
    pub function: FunctionName,
    /// What follows the function's segment and its slash, still percent-encoded.
    pub rest: Option<String>,
    /// What follows the `?`, still percent-encoded.
    pub query: Option<String>,
}

/// Why a target names nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Longer than [`MAX_TARGET_BYTES`].
    #[error("the request target is longer than {MAX_TARGET_BYTES} bytes")]
    TooLong,
    /// Not origin-form: a host, an authority or `*` stands where a path is due.
    #[error("the request target is not a path")]
    NotAPath,
    /// Hides a separator, a control, a dot segment or bytes that are not UTF-8.
    #[error("the path hides a separator, a control, a dot segment or bytes that are not UTF-8")]
    Hostile,
    /// A plain path that can name no function of any site.
    #[error("the path is not of the form `/tenant/function`")]
    NamesNothing,
}

/// Reads a request target, path and query as received: `/tenant/function`.
pub fn route(path: &str, query: Option<&str>) -> Result<Route, RouteError> {
    let (tenant, path) = segments(path, query)?.split_once('/').ok_or(RouteError::NamesNothing)?;
    let tenant = tenant.parse().map_err(|_| RouteError::NamesNothing)?;
    at(tenant, path, query)
}

/// Reads a request target at the host of a tenant: `/function`.
pub fn route_at_host(tenant: &TenantName, path: &str, query: Option<&str>) -> Result<Route, RouteError> {
    at(tenant.clone(), segments(path, query)?, query)
}

/// What names function and rest.
fn at(tenant: TenantName, path: &str, query: Option<&str>) -> Result<Route, RouteError> {
    let (function, rest) = match path.split_once('/') {
        Some((function, rest)) => (function, Some(rest.to_owned())),
        None => (path, None),
    };
    let function = function.parse().map_err(|_| RouteError::NamesNothing)?;
    Ok(Route { tenant, function, rest, query: query.map(str::to_owned) })
}

/// A path without the slash that it begins with, if it hides nothing.
fn segments<'a>(path: &'a str, query: Option<&str>) -> Result<&'a str, RouteError> {
    if path.len() + query.map_or(0, |q| q.len() + 1) > MAX_TARGET_BYTES {
        return Err(RouteError::TooLong);
    }
    let Some(segments) = path.strip_prefix('/') else { return Err(RouteError::NotAPath) };
    // Almost every path is plain; the others are looked at closely.
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'~')) {
        refuse_hostile(segments)?;
    }
    Ok(segments)
}

/// Refuses a path that would read differently once decoded.
fn refuse_hostile(segments: &str) -> Result<(), RouteError> {
    for segment in segments.split('/') {
        let decoded = decode_once(segment).ok_or(RouteError::Hostile)?;
        let text = std::str::from_utf8(&decoded).map_err(|_| RouteError::Hostile)?;
        let hides = |c: char| c.is_control() || matches!(c, '/' | '\\');
        if text == "." || text == ".." || text.contains(hides) {
            return Err(RouteError::Hostile);
        }
    }
    Ok(())
}

/// Percent-decodes; `None` where a `%` is not followed by two hexadecimal digits, or hides a plain character.
fn decode_once(segment: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let mut digit = || bytes.next().and_then(|d| char::from(d).to_digit(16));
            let (high, low) = (digit()?, digit()?);
            let byte = u8::try_from(high * 16 + low).ok()?;
            // An unreserved character needs no encoding (RFC 3986 §2.3): policies would see `%61dmin`, the function `admin`.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                return None;
            }
            out.push(byte);
        } else {
            out.push(b);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(text: &str) -> Result<Route, RouteError> {
        route(text, None)
    }

    #[test]
    fn a_path_names_tenant_function_and_rest() {
        let r = route("/acme/hello", Some("a=1")).unwrap();
        assert_eq!((r.tenant.as_str(), r.function.as_str()), ("acme", "hello"));
        assert_eq!((r.rest.as_deref(), r.query.as_deref()), (None, Some("a=1")));
        assert_eq!(path("/acme/hello/").unwrap().rest.as_deref(), Some(""));
        assert_eq!(path("/acme/hello/a/b%20c").unwrap().rest.as_deref(), Some("a/b%20c"));
    }

    #[test]
    fn at_a_tenants_host_a_path_names_function_and_rest() {
        let at = |path: &str| route_at_host(&"acme".parse().unwrap(), path, Some("a=1"));
        let named = |path: &str| {
            let r = at(path).unwrap();
            assert_eq!((r.tenant.as_str(), r.query.as_deref()), ("acme", Some("a=1")));
            (r.function.to_string(), r.rest)
        };
        assert_eq!(named("/hello"), ("hello".to_owned(), None));
        assert_eq!(named("/hello/"), ("hello".to_owned(), Some(String::new())));
        assert_eq!(named("/globex/calendar/x"), ("globex".to_owned(), Some("calendar/x".to_owned())));
        for (path, error) in [
            ("/", RouteError::NamesNothing),
            ("//hello", RouteError::NamesNothing),
            ("/Hello", RouteError::NamesNothing),
            ("hello", RouteError::NotAPath),
            ("*", RouteError::NotAPath),
            ("/hello/../x", RouteError::Hostile),
            ("/h%65llo", RouteError::Hostile),
        ] {
            assert_eq!(at(path), Err(error), "{path}");
        }
    }

    #[test]
    fn c06_hostile_paths_are_refused_and_never_normalised() {
        for hostile in [
            "/acme/hello/..",
            "/acme/../globex/calendar",
            "/acme/./hello",
            "/acme/%2e%2e/x",
            "/acme/hello/%2E",
            "/acme%2fhello",
            "/acme/hello/a%2Fb",
            "/acme/hello/a%5cb",
            "/acme/hello/a\\b",
            "/acme/hello/%00",
            "/acme/hello/%0a",
            "/acme/hello/%c0%af",
            "/acme/hello/%e0%80%af",
            "/acme/hello/%ff",
            "/acme/hello/%",
            "/acme/hello/%4",
            "/acme/hello/%zz",
            "/acme/hello/%+1",
            "/acme/hello/%61dmin",
            "/acme/h%65llo",
        ] {
            assert_eq!(path(hostile), Err(RouteError::Hostile), "{hostile}");
        }
    }

    #[test]
    fn a_path_that_can_name_no_function_names_nothing() {
        for nothing in ["/", "/acme", "/acme/", "//hello", "/Acme/hello", "/acme/he_llo", "/favicon.ico"] {
            assert_eq!(path(nothing), Err(RouteError::NamesNothing), "{nothing}");
        }
        assert_eq!(path("*"), Err(RouteError::NotAPath));
        assert_eq!(path(&format!("/acme/hello/{}", "a".repeat(MAX_TARGET_BYTES))), Err(RouteError::TooLong));
    }

    proptest! {
        #[test]
        fn what_is_named_stands_in_the_path_as_it_was_written(text in "/?[a-z0-9%./\\\\-]{0,40}") {
            if let Ok(r) = path(&text) {
                let rest = r.rest.map(|rest| format!("/{rest}")).unwrap_or_default();
                prop_assert_eq!(format!("/{}/{}{rest}", r.tenant, r.function), text);
            }
        }
    }
}
