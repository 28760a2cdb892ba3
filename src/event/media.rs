//! Media types that a function takes, and how the body of each is read.

use std::{ops::Range, sync::Arc};

use http::{HeaderMap, header};

use super::error::EventError;

/// How a body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Strict JSON, by the schema.
    Json,
    /// `name=value` pairs, made a JSON object, by the schema.
    Pairs,
    /// UTF-8 under the text rules.
    Text,
    /// Bytes as they are.
    Bytes,
}

/// One media type of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MediaType {
    pub(crate) name: Arc<str>,
    pub(crate) form: Form,
}

impl MediaType {
    /// `application/json`.
    pub(crate) fn json() -> Self {
        Self { name: "application/json".into(), form: Form::Json }
    }

    /// The type that a manifest writes: lower case, without parameters or wildcards.
    pub(crate) fn listed(text: &str) -> Option<Self> {
        let (main, sub) = text.split_once('/')?;
        if !is_token(main)
            || !is_token(sub)
            || text.contains('*')
            || text.bytes().any(|b| b.is_ascii_uppercase())
        {
            return None;
        }
        let form = match (main, sub) {
            // `*/json` and `*/*+json` are JSON wherever it matters which is (CloudEvents JSON format §3.1.1).
            (_, "json") => Form::Json,
            (_, sub) if sub.ends_with("+json") => Form::Json,
            ("application", "x-www-form-urlencoded") => Form::Pairs,
            ("text", _) => Form::Text,
            // Several bodies in one have no schema here.
            ("multipart" | "message", _) => return None,
            _ => Form::Bytes,
        };
        Some(Self { name: text.into(), form })
    }
}

/// The listed type that a request's one `Content-Type` names (D2). The only parameter is `charset=utf-8`, and only
/// for text.
pub(crate) fn of_request<'m>(
    headers: &HeaderMap,
    listed: &'m [MediaType],
) -> Result<&'m MediaType, EventError> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(EventError::UnsupportedMediaType);
    };
    named(value.to_str().map_err(|_| EventError::UnsupportedMediaType)?, listed)
}

/// The listed type that a content type names.
pub(crate) fn named<'m>(value: &str, listed: &'m [MediaType]) -> Result<&'m MediaType, EventError> {
    let (name, parameters) = essence(value);
    let found = listed.iter().find(|m| m.name.eq_ignore_ascii_case(name));
    let found = found.ok_or(EventError::UnsupportedMediaType)?;
    match parameters {
        None => Ok(found),
        Some(parameters) if found.form != Form::Bytes && is_utf8_charset(parameters) => Ok(found),
        Some(_) => Err(EventError::UnsupportedMediaType),
    }
}

/// Whether a content type is this one, with no parameter but `charset=utf-8`.
pub(crate) fn is_exactly(value: &str, media_type: &str) -> bool {
    let (name, parameters) = essence(value);
    name.eq_ignore_ascii_case(media_type) && parameters.is_none_or(is_utf8_charset)
}

/// A content type's media type, and its parameters if there are any.
fn essence(value: &str) -> (&str, Option<&str>) {
    let (name, parameters) = match value.split_once(';') {
        Some((name, parameters)) => (name, Some(parameters)),
        None => (value, None),
    };
    (name.trim_matches([' ', '\t']), parameters)
}

/// Whether a reply's content type is one media type with well-formed parameters.
pub(crate) fn is_well_formed(text: &str) -> bool {
    let mut parts = split_quoted(text);
    let essence = parts.next().and_then(|range| text.get(range)).unwrap_or_default();
    let named = essence.trim_end_matches([' ', '\t']).split_once('/');
    named.is_some_and(|(main, sub)| is_token(main) && is_token(sub))
        && parts.all(|range| text.get(range).is_some_and(is_parameter))
}

/// Whether a content type is JSON, whatever its parameters.
pub(crate) fn is_json(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
        || essence.rsplit_once('+').is_some_and(|(_, suffix)| suffix.eq_ignore_ascii_case("json"))
}

fn is_utf8_charset(parameters: &str) -> bool {
    let Some((name, value)) = parameters.trim_matches([' ', '\t']).split_once('=') else { return false };
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    name.eq_ignore_ascii_case("charset") && value.eq_ignore_ascii_case("utf-8")
}

/// `name=token` or `name="quoted"` (RFC 9110 §5.6.6).
fn is_parameter(text: &str) -> bool {
    let Some((name, value)) = text.trim_matches([' ', '\t']).split_once('=') else { return false };
    let quoted = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
    let plain = |v: &str| v.bytes().all(|b| matches!(b, b'\t' | b' '..=b'~') && b != b'"' && b != b'\\');
    is_token(name) && quoted.map_or_else(|| is_token(value), plain)
}

fn split_quoted(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    let mut quoted = false;
    let ends = text.bytes().chain([b';']).enumerate().filter_map(move |(at, b)| {
        quoted ^= b == b'"';
        (b == b';' && (!quoted || at == text.len())).then_some(at)
    });
    ends.map(move |end| {
        let range = start..end;
        start = end + 1;
        range
    })
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn accepted(values: &[&str], listed: &[&str]) -> bool {
        let listed: Vec<MediaType> = listed.iter().map(|l| MediaType::listed(l).unwrap()).collect();
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::CONTENT_TYPE, HeaderValue::from_str(value).unwrap());
        }
        of_request(&headers, &listed).is_ok()
    }

    #[test]
    fn d02_exactly_one_listed_type_and_no_charset_but_utf_8() {
        let json = ["application/json"];
        for good in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
        ] {
            assert!(accepted(&[good], &json), "{good}");
        }
        for bad in [
            "",
            "text/json",
            "application/json; charset=utf-16",
            "application/json; charset=utf-8; x=y",
            "application/json;",
            "application/json, text/plain",
            "application/json; boundary=x",
            "application/problem+json",
            "*/*",
        ] {
            assert!(!accepted(&[bad], &json), "{bad}");
        }
        assert!(!accepted(&["application/json", "application/json"], &json));
        assert!(!accepted(&[], &json));
        assert!(!accepted(&["application/octet-stream; charset=utf-8"], &["application/octet-stream"]));
        assert!(accepted(&["text/plain; charset=utf-8"], &["application/json", "text/plain"]));
    }

    #[test]
    fn a_manifest_lists_plain_types_only() {
        for bad in
            ["*/*", "text/*", "json", "Application/json", "multipart/form-data", "a/b; c=d", "", "/", "a/"]
        {
            assert_eq!(MediaType::listed(bad), None, "{bad}");
        }
        assert_eq!(MediaType::listed("application/problem+json").unwrap().form, Form::Json);
        assert_eq!(MediaType::listed("image/png").unwrap().form, Form::Bytes);
        assert_eq!(MediaType::listed("text/csv").unwrap().form, Form::Text);
    }

    #[test]
    fn d14_a_content_type_of_a_reply_is_well_formed() {
        for good in
            ["text/html", "text/html; charset=utf-8", "a/b;c=\"d;e\" ;f=g", "text/calendar;method=PUBLISH"]
        {
            assert!(is_well_formed(good), "{good}");
        }
        for bad in [
            "",
            "text",
            "text/",
            "text/html;",
            "text/html; charset",
            "a/b;c=\"d",
            "a/b\r\nx: y",
            "a b/c",
            "a/b;c=\"\n\"",
        ] {
            assert!(!is_well_formed(bad), "{bad:?}");
        }
        assert!(
            is_json("application/problem+json; charset=utf-8")
                && is_json("Application/Json")
                && !is_json("text/json5")
        );
    }
}
