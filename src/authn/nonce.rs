//! Nonces that a proof must carry: they say that it was made lately, for us, and not for a process before this one.
//!
//! A nonce is a number of an epoch and its MAC under a key that nobody else ever has, so nothing is kept of those that were
//! given out. It is good in its epoch and the next, which is for one to two times [`EPOCH`]. RFC 9449 §8, §11.3.

use std::time::{Duration, Instant};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    error::Unspecified,
    hmac::{HMAC_SHA256, Key, sign},
    rand::SystemRandom,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::remote::Clock;

/// Gives nonces out and knows them again.
pub(super) struct Nonces {
    key: Key,
    clock: Clock,
    begin: Instant,
}

/// A nonce that is still good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Good {
    /// In which it was given out.
    pub(super) epoch: u64,
    /// Whether it is the one that is given out now.
    pub(super) current: bool,
}

impl Nonces {
    pub(super) fn new(clock: Clock) -> Result<Self, Unspecified> {
        let begin = clock.now();
        Ok(Self { key: Key::generate(HMAC_SHA256, &SystemRandom::new())?, clock, begin })
    }

    /// The number of the present epoch; never falls.
    pub(super) fn epoch(&self) -> u64 {
        self.clock.now().saturating_duration_since(self.begin).as_secs() / EPOCH.as_secs()
    }

    /// The one to use from now on.
    pub(super) fn current(&self) -> String {
        self.of(self.epoch())
    }

    /// Whether it is one of ours, and still good.
    pub(super) fn judge(&self, nonce: &str) -> Option<Good> {
        let now = self.epoch();
        let is_of = |epoch: u64| verify_slices_are_equal(nonce.as_bytes(), self.of(epoch).as_bytes()).is_ok();
        if is_of(now) {
            return Some(Good { epoch: now, current: true });
        }
        now.checked_sub(1).filter(|before| is_of(*before)).map(|epoch| Good { epoch, current: false })
    }

    fn of(&self, epoch: u64) -> String {
        let number = epoch.to_be_bytes();
        let tag = sign(&self.key, &number);
        let half = tag.as_ref().get(..TAG_BYTES).unwrap_or_default();
        URL_SAFE_NO_PAD.encode([&number[..], half].concat())
    }
}

/// Half the time that a nonce is good for at most: short, since each proof made with it is remembered as long; long enough
/// that a client which calls once a minute needs no second call for it.
pub(super) const EPOCH: Duration = Duration::from_secs(60);
/// Of the MAC: 128 bits are not guessed.
const TAG_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;

    fn clock() -> (Arc<AtomicU64>, Clock) {
        let (begin, seconds) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let shown = Arc::clone(&seconds);
        let now = move || begin + Duration::from_secs(shown.load(Ordering::Relaxed));
        (seconds, Clock::new(now))
    }

    #[test]
    fn a16_a_nonce_is_good_in_its_epoch_and_the_next() {
        let (seconds, clock) = clock();
        let nonces = Nonces::new(clock).unwrap();
        let first = nonces.current();
        seconds.store(59, Ordering::Relaxed);
        assert_eq!(nonces.judge(&first), Some(Good { epoch: 0, current: true }));
        assert_eq!(nonces.current(), first);
        seconds.store(60, Ordering::Relaxed);
        assert_eq!(nonces.judge(&first), Some(Good { epoch: 0, current: false }));
        let second = nonces.current();
        assert_ne!(first, second);
        seconds.store(120, Ordering::Relaxed);
        assert_eq!(nonces.judge(&first), None);
        assert_eq!(nonces.judge(&second), Some(Good { epoch: 1, current: false }));
    }

    #[test]
    fn a16_a_nonce_of_another_process_or_of_nobody_is_none() {
        let (_, clock) = clock();
        let (ours, theirs) = (Nonces::new(clock.clone()).unwrap(), Nonces::new(clock).unwrap());
        let nonce = ours.current();
        let none = URL_SAFE_NO_PAD.encode([0; 24]);
        for strange in
            [&theirs.current(), "", "x", &nonce[1..], &format!("{nonce}A"), &format!("{nonce} "), &none]
        {
            assert_eq!(ours.judge(strange), None, "{strange}");
        }
    }
}
