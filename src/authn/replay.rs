//! Proofs that were used, so that none is used twice (RFC 9449 §11.1).
//!
//! A proof is remembered by its key and `jti` for as long as its nonce is good; after that it is refused for its nonce. So
//! what is kept falls into two epochs, and the older is forgotten whole.
//!
//! INVARIANT (Bounded): so many proofs and no more. Beyond that new ones are refused, and none is forgotten early: a place
//! that could be had by pushing another out would be a way to replay that other.

use std::{
    collections::HashSet,
    fmt,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::{
    error::Unspecified,
    hmac::{Context, HMAC_SHA256, Key},
    rand::SystemRandom,
};

use super::keys::Sha256;

/// Remembers proofs.
pub(super) struct Replay {
    /// Keyed, so that no sender can choose a shard and fill that one.
    key: Key,
    shards: Vec<Mutex<Shard>>,
    most_in_shard: usize,
}

/// Why a proof cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It was used before.
    Used,
    /// Its nonce has ceased to be good.
    Expired,
    /// There is no room to remember it.
    Full,
}

/// Enough of a MAC that no two proofs share it.
type Mark = [u8; 16];

#[derive(Default)]
struct Shard([Epoch; 2]);

#[derive(Default)]
struct Epoch {
    number: u64,
    used: HashSet<Mark>,
}

impl Replay {
    /// Room for about `most` proofs.
    pub(super) fn new(most: usize) -> Result<Self, Unspecified> {
        Ok(Self {
            key: Key::generate(HMAC_SHA256, &SystemRandom::new())?,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            most_in_shard: most.div_ceil(SHARDS),
        })
    }

    /// Uses a proof up: of this key and `jti`, with a nonce of `epoch`. `now` tells the present epoch; it is asked while nobody
    /// else can look, so that what one request forgets no other remembers anew.
    pub(super) fn spend(
        &self,
        key: &Sha256,
        jti: &str,
        epoch: u64,
        now: impl FnOnce() -> u64,
    ) -> Result<(), Unusable> {
        let (mark, place) = self.mark(key, jti);
        let Some(shard) = self.shards.get(place) else { return Err(Unusable::Full) };
        // A panic between two statements below leaves nothing half done.
        let Shard(epochs) = &mut *shard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        if epoch > now || epoch + 1 < now {
            return Err(Unusable::Expired);
        }
        for old in epochs.iter_mut().filter(|old| old.number + 1 < now) {
            // With its memory.
            *old = Epoch { number: now, used: HashSet::new() };
        }
        if epochs.iter().any(|one| one.used.contains(&mark)) {
            return Err(Unusable::Used);
        }
        if epochs.iter().map(|one| one.used.len()).sum::<usize>() >= self.most_in_shard {
            return Err(Unusable::Full);
        }
        let of_nonce = usize::from(!epoch.is_multiple_of(2));
        if let Some(one) = epochs.get_mut(of_nonce) {
            one.number = epoch;
            one.used.insert(mark);
        }
        Ok(())
    }

    /// How many proofs are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let of_shard = |shard: &Mutex<Shard>| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.0.iter().map(|one| one.used.len()).sum::<usize>()
        };
        self.shards.iter().map(of_shard).sum()
    }

    fn mark(&self, key: &Sha256, jti: &str) -> (Mark, usize) {
        let mut context = Context::with_key(&self.key);
        context.update(key);
        context.update(jti.as_bytes());
        let tag = context.sign();
        let mut mark = [0; 16];
        mark.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        (mark, tag.as_ref().last().map_or(0, |byte| usize::from(*byte) % SHARDS))
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").finish_non_exhaustive()
    }
}

/// Locks: requests that come together seldom want the same.
const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Sha256 = [7; 32];

    #[test]
    fn a16_a_proof_is_used_once_for_as_long_as_its_nonce_is_good() {
        let replay = Replay::new(1_000).unwrap();
        assert_eq!(replay.spend(&KEY, "a", 4, || 4), Ok(()));
        for now in [4, 5] {
            assert_eq!(replay.spend(&KEY, "a", 4, || now), Err(Unusable::Used));
        }
        // Nor with a newer nonce.
        assert_eq!(replay.spend(&KEY, "a", 5, || 5), Err(Unusable::Used));
        assert_eq!(replay.spend(&KEY, "a", 4, || 6), Err(Unusable::Expired));
        assert_eq!(replay.spend(&KEY, "a", 7, || 6), Err(Unusable::Expired), "no nonce is of the future");
        // Another sender may have chosen the same `jti`.
        assert_eq!(replay.spend(&[8; 32], "a", 4, || 5), Ok(()));
        assert_eq!(replay.spend(&KEY, "b", 4, || 5), Ok(()));
    }

    #[test]
    fn a16_what_is_full_refuses_and_forgets_nothing_early() {
        let most = 320;
        let replay = Replay::new(most).unwrap();
        let spend = |n: usize, epoch, now| replay.spend(&KEY, &n.to_string(), epoch, || now);
        let mut used = Vec::new();
        let mut full = 0;
        for n in 0..4 * most {
            match spend(n, u64::from(n % 2 == 1), 1) {
                Ok(()) => used.push(n),
                Err(error) => {
                    assert_eq!(error, Unusable::Full);
                    full += 1;
                }
            }
        }
        assert_eq!((used.len(), replay.len()), (most, most));
        assert_eq!(full, 3 * most);
        for n in &used {
            assert_eq!(spend(*n, 1, 1), Err(Unusable::Used));
        }
        // Those of epoch 0 make room when nobody could use them any more, and only they.
        let kept = used.iter().filter(|n| **n % 2 == 1).count();
        for n in 4 * most..8 * most {
            let _ = spend(n, 2, 2);
        }
        assert!(used.iter().filter(|n| **n % 2 == 1).all(|n| spend(*n, 2, 2) == Err(Unusable::Used)));
        assert_eq!(replay.len(), most);
        assert!(kept > 0 && kept < most);
        for n in 0..8 * most {
            let _ = spend(n, 9, 9);
        }
        assert_eq!(replay.len(), most);
    }

    #[test]
    fn a16_of_many_who_send_one_proof_at_once_one_is_served() {
        let replay = Replay::new(1_000).unwrap();
        let served: usize = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..50).filter(|n| replay.spend(&KEY, &n.to_string(), 0, || 0).is_ok()).count()
                    })
                })
                .collect();
            senders.into_iter().map(|sender| sender.join().unwrap()).sum()
        });
        assert_eq!(served, 50);
    }
}
