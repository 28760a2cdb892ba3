//! What a connection of HTTP/2 may send of frames that cost their sender nothing.
//!
//! They cost us something: an answer, a look-up, a stream that comes and goes. Each kind has a budget here that no client
//! needs who wants replies, and which grows with time and with what is of use.

use std::fmt;

use tokio::time::Instant;

use super::{
    cut::Cut,
    frames::{DATA, END_STREAM, HEADERS, PADDED, RST_STREAM, WINDOW_UPDATE},
};

/// What a connection may still send of frames that are free to send.
#[derive(Debug)]
pub(super) struct Budgets {
    resets: Budget,
    idle: Budget,
    windows: Budget,
    /// Bytes written for which no update of a window was earned yet.
    written: usize,
}

impl Budgets {
    pub(super) fn new() -> Self {
        Self {
            // A browser that leaves a page resets what it had open: some dozens at once, not every second.
            resets: Budget::new(200, 20),
            // Clients ask for a round-trip time some ten times a second, and split large heads into two or three frames.
            idle: Budget::new(300, 50),
            // Beside what replies earn, a client opens the windows of its streams as it opens them.
            windows: Budget::new(500, 100),
            written: 0,
        }
    }

    pub(super) fn spend(&mut self, kind: u8, flags: u8, length: usize) -> Result<(), Cut> {
        match kind {
            // A frame of padding alone is as empty as one of nothing; no client of an API pads.
            DATA if flags & PADDED != 0 && length <= MAX_PADDING => self.idle.spend(Cut::Idle),
            DATA if length > 0 || flags & END_STREAM != 0 => Ok(()),
            HEADERS if length > 0 => {
                self.windows.earn(WINDOWS_A_REQUEST);
                Ok(())
            }
            RST_STREAM => self.resets.spend(Cut::Resets),
            WINDOW_UPDATE => self.windows.spend(Cut::Windows),
            _ => self.idle.spend(Cut::Idle),
        }
    }

    /// Whoever takes replies must open windows for them; the smallest update of use is about this large.
    pub(super) fn earn(&mut self, written: usize) {
        self.written += written;
        if self.written >= BYTES_A_WINDOW {
            self.windows.earn(u32::try_from(self.written / BYTES_A_WINDOW).unwrap_or(u32::MAX));
            self.written %= BYTES_A_WINDOW;
        }
    }
}

/// So many at once and so many a second. The clock is looked at when nothing is left: in no second more than twice the
/// burst and the rate can pass.
struct Budget {
    left: u32,
    burst: u32,
    a_second: u32,
    since: Instant,
}

impl Budget {
    fn new(burst: u32, a_second: u32) -> Self {
        Self { left: burst, burst, a_second, since: Instant::now() }
    }

    fn earn(&mut self, more: u32) {
        self.left = self.left.saturating_add(more).min(self.burst);
    }

    fn spend(&mut self, cut: Cut) -> Result<(), Cut> {
        if self.left == 0 {
            let now = Instant::now();
            let came = now.duration_since(self.since).as_millis() * u128::from(self.a_second) / 1000;
            if came == 0 {
                return Err(cut);
            }
            self.since = now;
            self.earn(u32::try_from(came).unwrap_or(u32::MAX));
        }
        self.left -= 1;
        Ok(())
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.left, self.burst)
    }
}

/// Most padding of one frame with the octet that counts it.
const MAX_PADDING: usize = 256;
/// Updates of windows that come with a request: its stream's and the connection's.
const WINDOWS_A_REQUEST: u32 = 2;
/// Bytes of a reply that earn an update.
const BYTES_A_WINDOW: usize = 1024;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_budget_grows_with_time() {
        let mut budget = Budget::new(10, 5);
        let mut spent = |times: u32| (0..times).filter(|_| budget.spend(Cut::Idle).is_ok()).count();
        assert_eq!(spent(20), 10);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(spent(20), 5);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(spent(20), 10);
    }
}
