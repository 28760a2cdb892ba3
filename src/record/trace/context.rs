//! W3C Trace Context as a request claims it (<https://www.w3.org/TR/trace-context/>).
//!
//! Parsed strictly and within bounds: what is not well-formed is as if it had not come, and no fault of the request.

use std::str::FromStr;

use http::HeaderMap;
use opentelemetry::{
    SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceState},
};

/// What `traceparent` says, and `tracestate` if it is wanted.
pub(super) fn read(headers: &HeaderMap, with_state: bool) -> Option<SpanContext> {
    let mut all = headers.get_all(TRACEPARENT).iter();
    let (Some(one), None) = (all.next(), all.next()) else { return None };
    let (trace_id, span_id, flags) = parent(one.as_bytes())?;
    let state = if with_state { state(headers) } else { None };
    Some(SpanContext::new(trace_id, span_id, flags, true, state.unwrap_or_default()))
}

/// Version, trace id, span id, flags (§3.2). Of later versions only what this one knows is read (§3.3).
fn parent(value: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    if value.len() > MAX_PARENT_BYTES {
        return None;
    }
    let (known, more) = value.split_at_checked(PARENT_BYTES)?;
    let text = std::str::from_utf8(known).ok()?;
    let mut parts = text.split('-');
    let mut next = |digits| parts.next().filter(|part| part.len() == digits && part.bytes().all(is_hex));
    let (version, trace_id, span_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
    let goes_on = match version {
        "00" => more.is_empty(),
        "ff" => false,
        _ => more.first().is_none_or(|byte| *byte == b'-'),
    };
    let trace_id = TraceId::from_hex(trace_id).ok().filter(|id| *id != TraceId::INVALID)?;
    let span_id = SpanId::from_hex(span_id).ok().filter(|id| *id != SpanId::INVALID)?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    goes_on.then_some((trace_id, span_id, flags))
}

/// Other systems' notes, passed on as they are (§3.3.1); all of them or none.
fn state(headers: &HeaderMap) -> Option<TraceState> {
    let mut joined = String::new();
    for value in headers.get_all(TRACESTATE) {
        let value = value.to_str().ok()?;
        if joined.len() + value.len() >= MAX_STATE_BYTES {
            return None;
        }
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(value);
    }
    let members: Vec<&str> = joined.split(',').map(str::trim).filter(|member| !member.is_empty()).collect();
    // The library takes a name of no characters for one.
    let nameless = members.iter().any(|member| member.starts_with('='));
    if members.is_empty() || members.len() > MAX_STATE_MEMBERS || nameless {
        return None;
    }
    TraceState::from_str(&members.join(",")).ok()
}

/// Capitals are not allowed (§3.2.2.3).
fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";
/// `00-` 32 digits `-` 16 digits `-` 2 digits.
const PARENT_BYTES: usize = 55;
/// Room for what later versions may add.
const MAX_PARENT_BYTES: usize = 128;
/// What must be passed on (§3.3.1.5), and members (§3.3.1.1).
const MAX_STATE_BYTES: usize = 512;
const MAX_STATE_MEMBERS: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_well_formed_context_is_read_whole() {
        let read =
            read(&headers(&[(TRACEPARENT, GOOD), (TRACESTATE, "a=1, b=2"), (TRACESTATE, "c@d=3")]), true);
        let read = read.unwrap();
        assert_eq!(read.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(read.span_id().to_string(), "b7ad6b7169203331");
        assert!(read.is_sampled() && read.is_remote());
        assert_eq!(read.trace_state().header(), "a=1,b=2,c@d=3");
        let without = super::read(&headers(&[(TRACEPARENT, GOOD), (TRACESTATE, "a=1")]), false).unwrap();
        assert_eq!(without.trace_state().header(), "");
        // Unknown flags are dropped, and a later version may say more.
        let later = GOOD.replacen("00-", "01-", 1).replace("-01", "-fe") + "-more";
        let later = super::read(&headers(&[(TRACEPARENT, &later)]), true).unwrap();
        assert_eq!(later.trace_flags(), TraceFlags::NOT_SAMPLED);
    }

    #[test]
    fn anything_else_is_as_if_it_had_not_come() {
        let long = format!("01{}-{}", &GOOD[2..], "a".repeat(100));
        for bad in [
            "",
            &GOOD[..54],
            &format!("{GOOD}-00"),
            &format!("{GOOD} "),
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0g", 1),
            &GOOD.replace('-', "_"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            &long,
        ] {
            assert_eq!(read(&headers(&[(TRACEPARENT, bad)]), true), None, "{bad}");
        }
        assert_eq!(read(&headers(&[(TRACEPARENT, GOOD), (TRACEPARENT, GOOD)]), true), None);
        let many = (0..33).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        for bad in ["A=1", "a", "=1", &many, &format!("a={}", "x".repeat(512))] {
            let read = read(&headers(&[(TRACEPARENT, GOOD), (TRACESTATE, bad)]), true).unwrap();
            assert_eq!(read.trace_state().header(), "", "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_any_harm(parent in "[ -~]{0,140}", state in "[ -~]{0,600}") {
            read(&headers(&[(TRACEPARENT, &parent), (TRACESTATE, &state)]), true);
        }
    }
}
