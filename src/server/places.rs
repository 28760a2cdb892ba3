//! So many at once, of what may become more or fewer while some are in.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places, and who waits for one.
///
/// Invariant: places that exist are `size` and those that are owed, which nobody gets again once they are free.
#[derive(Debug)]
pub(super) struct Places {
    places: Arc<Semaphore>,
    /// How many there shall be. Only [`Places::resize`] writes it, and that is called by one reload at a time.
    size: AtomicUsize,
    /// Places taken away while somebody had them.
    owed: AtomicUsize,
}

impl Places {
    pub(super) fn new(size: usize) -> Arc<Self> {
        let size = size.min(MOST);
        Arc::new(Self {
            places: Arc::new(Semaphore::new(size)),
            size: AtomicUsize::new(size),
            owed: AtomicUsize::new(0),
        })
    }

    /// Waits for a place; dropping it frees it. Never `None` while there is a [`Places`].
    pub(super) async fn enter(self: &Arc<Self>) -> Option<Inside> {
        let permit = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some(Inside { permit: Some(permit), of: Arc::clone(self) })
    }

    /// Makes more places, or takes away free ones, and others as soon as they are.
    pub(super) fn resize(&self, size: usize) {
        let size = size.min(MOST);
        let before = self.size.swap(size, Relaxed);
        if let Some(more) = size.checked_sub(before) {
            let forgiven = take(&self.owed, more);
            self.places.add_permits(more - forgiven);
        } else {
            let fewer = before - size;
            self.owed.fetch_add(fewer - self.places.forget_permits(fewer), Relaxed);
        }
    }

    /// Ends when nobody is in. Nobody comes in afterwards.
    pub(super) async fn emptied(&self) {
        let all = u32::try_from(self.size.load(Relaxed)).unwrap_or(u32::MAX);
        if let Ok(all) = self.places.acquire_many(all).await {
            all.forget();
        }
    }
}

/// A place.
#[derive(Debug)]
pub(super) struct Inside {
    permit: Option<OwnedSemaphorePermit>,
    of: Arc<Places>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && take(&self.of.owed, 1) == 1
        {
            permit.forget();
        }
    }
}

/// Takes up to so many; how many it were.
fn take(from: &AtomicUsize, most: usize) -> usize {
    let before = from.fetch_update(Relaxed, Relaxed, |owed| Some(owed - owed.min(most)));
    before.unwrap_or_default().min(most)
}

/// More than any setting allows.
const MOST: usize = u32::MAX as usize >> 3;
const _: () = assert!(MOST <= Semaphore::MAX_PERMITS);

#[cfg(test)]
mod tests {
    use super::*;

    async fn enter(room: &Arc<Places>) -> Option<Inside> {
        tokio::select! {
            biased;
            place = room.enter() => place,
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn a_room_grows_at_once_and_shrinks_as_places_become_free() {
        let room = Places::new(1);
        let first = enter(&room).await.unwrap();
        assert!(enter(&room).await.is_none());
        room.resize(3);
        let (second, third) = (enter(&room).await.unwrap(), enter(&room).await.unwrap());
        assert!(enter(&room).await.is_none());
        // Two are owed: only what ends after them makes room.
        room.resize(1);
        drop(first);
        assert!(enter(&room).await.is_none());
        drop(second);
        assert!(enter(&room).await.is_none());
        drop(third);
        let only = enter(&room).await.unwrap();
        assert!(enter(&room).await.is_none());
        // What is owed is forgiven before places are made.
        room.resize(5);
        let others = [enter(&room).await, enter(&room).await];
        assert!(others.iter().all(Option::is_some));
        room.resize(1);
        room.resize(3);
        assert!(enter(&room).await.is_none());
        drop(only);
        let again = enter(&room).await.unwrap();
        drop((others, again));
        room.emptied().await;
        assert!(enter(&room).await.is_none());
    }

    #[tokio::test]
    async fn a_room_is_empty_when_the_last_has_gone_though_places_are_owed() {
        let room = Places::new(2);
        let (first, second) = (enter(&room).await.unwrap(), enter(&room).await.unwrap());
        room.resize(1);
        let emptied = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.emptied().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!emptied.is_finished());
        drop(second);
        emptied.await.unwrap();
    }
}
