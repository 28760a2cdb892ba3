//! A histogram that is observed without a lock: every request observes each stage, and a lock there would be one that
//! all requests share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, TypedMetric},
};

/// Durations by upper bounds in seconds. Clones are the same histogram.
#[derive(Debug, Clone)]
pub(super) struct Histogram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Ascending, in nanoseconds.
    bounds: Box<[u64]>,
    /// In seconds, as the exposition has them.
    seconds: Box<[f64]>,
    shards: [Shard; SHARDS],
}

/// What one share of the threads observed, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    /// For each bound the observations up to it and above the one before; the last is for those above all.
    counts: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Histogram {
    /// Buckets up to each of `seconds`, ascending, and one above.
    pub(super) fn new(seconds: &[f64]) -> Self {
        let bounds: Box<[u64]> = seconds.iter().map(|bound| (bound * 1e9).round() as u64).collect();
        let shard = |_| Shard {
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            nanoseconds: AtomicU64::new(0),
        };
        let shards = std::array::from_fn(shard);
        Self(Arc::new(Inner { bounds, seconds: seconds.into(), shards }))
    }

    /// Something took so long.
    pub(super) fn observe(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.0.bounds.partition_point(|bound| *bound < took);
        let Some(shard) = self.0.shards.get(SHARD.with(|shard| *shard)) else { return };
        if let Some(count) = shard.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
            shard.nanoseconds.fetch_add(took, Ordering::Relaxed);
        }
    }
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Inner { seconds, shards, .. } = &*self.0;
        let over = |at: usize| -> u64 {
            shards.iter().filter_map(|shard| shard.counts.get(at)).map(|n| n.load(Ordering::Relaxed)).sum()
        };
        let bounds = seconds.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.enumerate().map(|(at, bound)| (bound, over(at))).collect();
        // Counted from the buckets, so that both agree while others observe.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum: u64 = shards.iter().map(|shard| shard.nanoseconds.load(Ordering::Relaxed)).sum();
        encoder.encode_histogram::<NoLabelSet>(sum as f64 / 1e9, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

/// Threads take shards in turn.
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// As many as machines have I/O threads, about; more threads share.
const SHARDS: usize = 16;

thread_local! {
    static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    #[test]
    fn observations_of_all_threads_are_counted_once_each_in_their_bucket() {
        let histogram = Histogram::new(&[1e-6, 1e-3]);
        let threads: Vec<_> = (0..40)
            .map(|_| {
                let histogram = histogram.clone();
                std::thread::spawn(move || {
                    // On a bound counts as below it (OpenMetrics: `le`).
                    for nanoseconds in [1, 1_000, 1_001, 1_000_000, 1_000_001, u64::MAX / 1_000] {
                        histogram.observe(Duration::from_nanos(nanoseconds));
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut registry = Registry::default();
        registry.register("took", "Durations", histogram);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "took_bucket{le=\"0.000001\"} 80",
            "took_bucket{le=\"0.001\"} 160",
            "took_bucket{le=\"+Inf\"} 240",
            "took_count 240",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
