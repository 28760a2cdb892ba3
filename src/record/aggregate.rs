//! Refusals before authentication: alone up to a rate, beyond it in aggregate.
//!
//! INVARIANT (Bounded): both maps have a bound; what finds no room is counted under `other`, so nothing is lost but
//! detail. A bucket that has filled up again is forgotten at the next tick.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};

use super::{
    entry::{Body, Refusal, Stage, body_of, rfc3339},
    time::since,
};

/// What callers without a token can cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedLimits {
    /// Bytes of the refusals' own chain, to the nearest eighth; the oldest go.
    pub budget_bytes: u64,
    /// Refusals of one client prefix that are recorded alone at once…
    pub burst: u32,
    /// … and then each second.
    pub per_second: u32,
    /// The same over all prefixes: bounds what a botnet writes.
    pub total_burst: u32,
    /// The same over all prefixes.
    pub total_per_second: u32,
    /// Time between aggregate records.
    pub flush_every: Duration,
}

impl Default for RefusedLimits {
    fn default() -> Self {
        Self {
            budget_bytes: 256 << 20,
            burst: 20,
            per_second: 1,
            total_burst: 2_000,
            total_per_second: 200,
            flush_every: Duration::from_secs(10),
        }
    }
}

/// Clients that are likely one: an IPv4 /24 or an IPv6 /48.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Prefix {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    /// Clients for which there was no room.
    Other,
}

impl Prefix {
    fn of(client: IpAddr) -> Self {
        match client.to_canonical() {
            IpAddr::V4(ip) => Self::V4(Ipv4Addr::from_bits(ip.to_bits() & (u32::MAX << 8))),
            IpAddr::V6(ip) => Self::V6(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 80))),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(ip) => write!(f, "{ip}/24"),
            Self::V6(ip) => write!(f, "{ip}/48"),
            Self::Other => f.write_str("other"),
        }
    }
}

/// What is counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    prefix: Prefix,
    stage: Stage,
    code: &'static str,
    reason: &'static str,
}

/// How often, and when.
#[derive(Debug, Clone, Copy)]
struct Count {
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

/// Refusals to be recorded as one.
#[derive(Debug)]
pub(super) struct Aggregate {
    key: Key,
    count: Count,
}

impl Aggregate {
    pub(super) fn body(&self) -> Body {
        #[derive(Serialize)]
        struct Fields {
            #[serde(serialize_with = "rfc3339")]
            time: SystemTime,
            #[serde(serialize_with = "shown")]
            prefix: Prefix,
            stage: Stage,
            code: &'static str,
            reason: &'static str,
            count: u64,
            #[serde(serialize_with = "rfc3339")]
            first: SystemTime,
            #[serde(serialize_with = "rfc3339")]
            last: SystemTime,
        }
        fn shown<S: Serializer>(prefix: &Prefix, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(prefix)
        }
        let Self { key: Key { prefix, stage, code, reason }, count: Count { count, first, last } } = *self;
        body_of(
            "refused_before_authentication",
            &Fields { time: last, prefix, stage, code, reason, count, first, last },
        )
    }
}

/// A token bucket, in thousandths.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: u64,
    at: SystemTime,
}

impl Bucket {
    fn full(burst: u32, at: SystemTime) -> Self {
        Self { level: u64::from(burst) * 1000, at }
    }

    fn refill(&mut self, burst: u32, per_second: u32, now: SystemTime) {
        let elapsed_ms = u64::try_from(since(now, self.at).as_millis()).unwrap_or(u64::MAX);
        let gained = elapsed_ms.saturating_mul(u64::from(per_second));
        if gained > 0 {
            self.level = self.level.saturating_add(gained).min(u64::from(burst) * 1000);
            self.at = now;
        }
    }

    fn has_one(&self) -> bool {
        self.level >= 1000
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Aggregates {
    limits: RefusedLimits,
    buckets: HashMap<Prefix, Bucket>,
    total: Option<Bucket>,
    counts: HashMap<Key, Count>,
    flushed: Option<SystemTime>,
}

impl Aggregates {
    pub(super) fn new(limits: RefusedLimits) -> Self {
        Self { limits, buckets: HashMap::new(), total: None, counts: HashMap::new(), flushed: None }
    }

    /// Whether this refusal is to be recorded alone. If not, it is counted already.
    pub(super) fn admit(&mut self, refusal: &Refusal) -> bool {
        let RefusedLimits { burst, per_second, total_burst, total_per_second, .. } = self.limits;
        let (prefix, now) = (Prefix::of(refusal.client), refusal.time);
        let total = self.total.get_or_insert_with(|| Bucket::full(total_burst, now));
        total.refill(total_burst, total_per_second, now);
        let room = self.buckets.len() < MAX_PREFIXES || self.buckets.contains_key(&prefix);
        if room && total.has_one() {
            let own = self.buckets.entry(prefix).or_insert_with(|| Bucket::full(burst, now));
            own.refill(burst, per_second, now);
            if own.has_one() {
                own.level -= 1000;
                total.level -= 1000;
                return true;
            }
        }
        self.count(refusal);
        false
    }

    pub(super) fn count(&mut self, refusal: &Refusal) {
        let Refusal { stage, code, reason, client, .. } = *refusal;
        let key = Key { prefix: Prefix::of(client), stage, code, reason };
        self.add(key, Count { count: 1, first: refusal.time, last: refusal.time });
    }

    /// What was counted, if it is time to record it.
    pub(super) fn due(&mut self, now: SystemTime) -> Vec<Aggregate> {
        let flushed = *self.flushed.get_or_insert(now);
        let crowded = self.counts.len() >= MAX_COUNTS / 2;
        if crowded || since(now, flushed) >= self.limits.flush_every { self.take(now) } else { Vec::new() }
    }

    /// What was counted.
    pub(super) fn take(&mut self, now: SystemTime) -> Vec<Aggregate> {
        self.flushed = Some(now);
        let RefusedLimits { burst, per_second, .. } = self.limits;
        self.buckets.retain(|_, bucket| {
            bucket.refill(burst, per_second, now);
            bucket.level < u64::from(burst) * 1000
        });
        self.counts.drain().map(|(key, count)| Aggregate { key, count }).collect()
    }

    /// What could not be recorded is counted on.
    pub(super) fn put_back(&mut self, aggregate: Aggregate) {
        self.add(aggregate.key, aggregate.count);
    }

    fn add(&mut self, mut key: Key, more: Count) {
        // Codes and reasons are words of ours, so `other` has a small number of keys.
        if self.counts.len() >= MAX_COUNTS && !self.counts.contains_key(&key) {
            key.prefix = Prefix::Other;
        }
        let count = self.counts.entry(key).or_insert(Count { count: 0, ..more });
        count.count = count.count.saturating_add(more.count);
        count.first = count.first.min(more.first);
        count.last = count.last.max(more.last);
    }
}

/// Client prefixes with a bucket, about 1.5 MiB.
const MAX_PREFIXES: usize = 16_384;
/// Counts between two flushes: about 1.2 MiB of records.
const MAX_COUNTS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RequestId;

    fn refusal(client: IpAddr, ms: u64) -> Refusal {
        Refusal {
            request_id: RequestId::new(ms, 0),
            trace_id: None,
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(ms),
            client,
            status: 401,
            code: "unauthenticated",
            reason: "expired",
            detail: None,
            tenant: None,
            stage: Stage::Authenticate,
        }
    }

    #[test]
    fn a_prefix_is_recorded_alone_up_to_its_rate_then_counted() {
        let mut aggregates =
            Aggregates::new(RefusedLimits { burst: 3, per_second: 1, ..RefusedLimits::default() });
        let admitted = |aggregates: &mut Aggregates, ip: &str, ms| {
            (0..10).filter(|_| aggregates.admit(&refusal(ip.parse().unwrap(), ms))).count()
        };
        assert_eq!(admitted(&mut aggregates, "192.0.2.1", 1_000), 3);
        assert_eq!(admitted(&mut aggregates, "192.0.2.200", 1_000), 0, "the same /24");
        assert_eq!(admitted(&mut aggregates, "::ffff:192.0.2.7", 1_000), 0, "the same, mapped");
        assert_eq!(admitted(&mut aggregates, "192.0.3.1", 1_000), 3, "another /24");
        assert_eq!(admitted(&mut aggregates, "2001:db8:1::1", 1_000), 3);
        assert_eq!(admitted(&mut aggregates, "2001:db8:1:ffff::1", 1_000), 0, "the same /48");
        assert_eq!(admitted(&mut aggregates, "192.0.2.1", 3_000), 2, "two seconds later");
        assert_eq!(admitted(&mut aggregates, "192.0.2.1", 2_000), 0, "a clock that goes back gives nothing");
    }

    #[test]
    fn all_prefixes_together_have_a_rate() {
        let limits = RefusedLimits { total_burst: 100, total_per_second: 10, ..RefusedLimits::default() };
        let mut aggregates = Aggregates::new(limits);
        let clients = || (0..50_000_u32).map(|n| IpAddr::V4(Ipv4Addr::from_bits(n << 8)));
        assert_eq!(clients().filter(|ip| aggregates.admit(&refusal(*ip, 1_000))).count(), 100);
        assert_eq!(clients().filter(|ip| aggregates.admit(&refusal(*ip, 2_000))).count(), 10);
    }

    #[test]
    fn counts_survive_crowding_and_a_disk_that_refuses() {
        let mut aggregates = Aggregates::new(RefusedLimits { burst: 0, ..RefusedLimits::default() });
        for n in 0..100_000_u32 {
            assert!(
                !aggregates.admit(&refusal(IpAddr::V4(Ipv4Addr::from_bits(n << 8)), 1_000 + u64::from(n)))
            );
        }
        assert!(aggregates.counts.len() <= MAX_COUNTS + 1);
        assert!(aggregates.buckets.len() <= MAX_PREFIXES);
        for aggregate in aggregates.take(SystemTime::UNIX_EPOCH) {
            aggregates.put_back(aggregate);
        }
        let taken = aggregates.take(SystemTime::UNIX_EPOCH);
        assert_eq!(taken.iter().map(|aggregate| aggregate.count.count).sum::<u64>(), 100_000);
        assert!(taken.iter().any(|aggregate| aggregate.key.prefix == Prefix::Other));
        aggregates.count(&refusal("2001:db8::1".parse().unwrap(), 1_500));
        aggregates.count(&refusal("2001:db8::2".parse().unwrap(), 1_000));
        let taken = aggregates.take(SystemTime::UNIX_EPOCH);
        insta::assert_snapshot!(
            String::from_utf8(taken[0].body()).unwrap(),
            @r#""kind":"refused_before_authentication","time":"1970-01-01T00:00:01.500Z","prefix":"2001:db8::/48","stage":"authenticate","code":"unauthenticated","reason":"expired","count":2,"first":"1970-01-01T00:00:01.000Z","last":"1970-01-01T00:00:01.500Z""#
        );
    }
}
