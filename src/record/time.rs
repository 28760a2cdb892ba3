//! Times as records write them: RFC 3339, UTC, milliseconds. All have one width, so their texts sort as they do.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

/// Prints `2026-01-31T09:30:00.123Z`.
pub(super) struct Rfc3339(pub(super) SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A clock outside the years -9999 to 9999 prints as the epoch: no request waits for it to be mended.
        let time = Timestamp::try_from(self.0).unwrap_or(Timestamp::UNIX_EPOCH);
        PRINTER.print_timestamp(&time, jiff::fmt::StdFmtWrite(f)).map_err(|_| fmt::Error)
    }
}

/// Reads any RFC 3339 time.
pub(super) fn parse(text: &str) -> Option<SystemTime> {
    SystemTime::try_from(text.parse::<Timestamp>().ok()?).ok()
}

/// How long ago `then` was at `now`; nothing if it is to come.
pub(super) fn since(now: SystemTime, then: SystemTime) -> Duration {
    now.duration_since(then).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_read_back() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_760_000_000_120);
        assert_eq!(Rfc3339(time).to_string(), "2025-10-09T08:53:20.120Z");
        assert_eq!(parse("2025-10-09T08:53:20.120Z"), Some(time));
        assert_eq!(Rfc3339(SystemTime::UNIX_EPOCH).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
