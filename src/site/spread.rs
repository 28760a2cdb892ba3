//! Work on many tenants, shared out to threads.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// Calls `work` for every item on as many threads as there are cores, `most` of them at most; what comes of it is in the
/// order of the items. `tools` makes what each thread has for itself.
///
/// Threads take a few items at a time: halves fixed beforehand would wait for the slower core.
pub fn spread<I: Sync, T, R: Send>(
    items: &[I],
    most: usize,
    tools: impl Fn() -> T + Sync,
    work: impl Fn(&mut T, &I) -> R + Sync,
) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, |n| n.get()).min(most).min(items.len()).max(1);
    let next = AtomicUsize::new(0);
    let take = || {
        let mut tools = tools();
        let mut done: Vec<(usize, Vec<R>)> = Vec::new();
        loop {
            let first = next.fetch_add(AT_A_TIME, Ordering::Relaxed);
            let taken: Vec<R> =
                items.iter().skip(first).take(AT_A_TIME).map(|item| work(&mut tools, item)).collect();
            if taken.is_empty() {
                return done;
            }
            done.push((first, taken));
        }
    };
    let mut done: Vec<(usize, Vec<R>)> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(take)).collect();
        let mut done = take();
        for other in others {
            // A thread panics only by a bug of ours; then so do we.
            done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_by_key(|(first, _)| *first);
    done.into_iter().flat_map(|(_, results)| results).collect()
}

const AT_A_TIME: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_and_results_keep_their_order() {
        for count in [0, 1, 7, 8, 9, 1_000] {
            let items: Vec<usize> = (0..count).collect();
            let doubled = spread(
                &items,
                8,
                || 0,
                |seen, item| {
                    *seen += 1;
                    item * 2
                },
            );
            assert_eq!(doubled, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        }
    }
}
