//! The kernel's watch over folders, asked for changes alone.
//!
//! Why not a crate for it: those at hand also ask to be told of every file that is opened. Of a site of 100 000 functions
//! that is some 300 000 events for our own reading at each start, and each watch waits for a thread to answer: together a
//! quarter of a start's time.

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::{
    fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

/// Watched folders.
#[derive(Debug)]
pub(super) struct Inotify {
    fd: AsyncFd<OwnedFd>,
    /// By the kernel's number for them. Locked while one is added, so that no event comes before its path.
    folders: Mutex<HashMap<i32, PathBuf>>,
}

/// What happened in a watched folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Something at this path is new, other or gone.
    Changed(PathBuf),
    /// The kernel had to drop events.
    Lost,
}

/// Why a folder is not watched.
#[derive(Debug)]
pub(super) enum AddError {
    /// The system's limit is reached.
    TooMany,
    /// Anything else.
    Failed(io::Error),
}

impl Inotify {
    /// None watched yet. Within a runtime.
    pub(super) fn new() -> io::Result<Self> {
        let fd = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        #[expect(
            deprecated,
            reason = "unsound for what closes or changes its descriptor: an `OwnedFd` does neither"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, folders: Mutex::default() })
    }

    /// Watches a folder, unless it is gone.
    pub(super) fn add(&self, folder: &Path) -> Result<(), AddError> {
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        match add_watch(self.fd.as_fd(), folder, CHANGES) {
            Ok(number) => {
                folders.insert(number, folder.to_owned());
                Ok(())
            }
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(Errno::NOSPC) => Err(AddError::TooMany),
            Err(error) => Err(AddError::Failed(error.into())),
        }
    }

    /// Hands over what happens, until the watch itself fails.
    pub(super) async fn read(&self, mut take: impl FnMut(Event)) -> io::Error {
        // Room for some hundred events at once; names have at most 255 bytes.
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        loop {
            let mut ready = match self.fd.readable().await {
                Ok(ready) => ready,
                Err(error) => return error,
            };
            let mut reader = Reader::new(ready.get_inner(), &mut buffer);
            let failed = loop {
                match reader.next() {
                    Ok(event) => {
                        let name = event.file_name().map(|name| std::ffi::OsStr::from_bytes(name.to_bytes()));
                        if let Some(event) = self.event(event.wd(), event.events(), name.map(Path::new)) {
                            take(event);
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => break error,
                }
            };
            if failed != Errno::AGAIN {
                return failed.into();
            }
            ready.clear_ready();
        }
    }

    fn event(&self, number: i32, kind: ReadFlags, name: Option<&Path>) -> Option<Event> {
        if kind.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Some(Event::Lost);
        }
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if kind.contains(ReadFlags::IGNORED) {
            folders.remove(&number);
            return None;
        }
        let folder = folders.get(&number)?;
        let path = name.map_or_else(|| folder.clone(), |name| folder.join(name));
        // Moved within the site, it is new where it came to and watched again from there.
        if kind.contains(ReadFlags::MOVED_FROM | ReadFlags::ISDIR) {
            folders.retain(|number, folder| {
                let moved = folder.starts_with(&path);
                if moved {
                    // It fails only for what is gone by itself.
                    let _ = remove_watch(self.fd.as_fd(), *number);
                }
                !moved
            });
        }
        Some(Event::Changed(path))
    }
}

/// All but opening and reading.
const CHANGES: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is told until `last` is.
    async fn told(inotify: &Inotify, last: &Path) -> Vec<PathBuf> {
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        let read = inotify.read(|event| _ = sender.send(event));
        let collect = async {
            let mut paths = Vec::new();
            while let Some(Event::Changed(path)) = events.recv().await {
                let done = path == last;
                paths.push(path);
                if done {
                    break;
                }
            }
            paths
        };
        tokio::select! {
            error = read => panic!("{error}"),
            paths = collect => paths,
        }
    }

    #[tokio::test]
    async fn changes_are_told_and_reading_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&file, "1").unwrap();
        let inotify = Inotify::new().unwrap();
        inotify.add(dir.path()).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"1");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::write(&other, "2").unwrap();
        assert_eq!(told(&inotify, &other).await, [other]);
    }

    #[tokio::test]
    async fn a_folder_that_is_gone_or_moved_is_told_under_its_new_name_only() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir(&old).unwrap();
        let inotify = Inotify::new().unwrap();
        inotify.add(&dir.path().join("none")).unwrap();
        inotify.add(dir.path()).unwrap();
        inotify.add(&old).unwrap();
        fs::rename(&old, &new).unwrap();
        told(&inotify, &new).await;
        fs::write(new.join("unwatched"), "").unwrap();
        inotify.add(&new).unwrap();
        let file = new.join("a");
        fs::write(&file, "").unwrap();
        let paths = told(&inotify, &file).await;
        assert!(paths.iter().all(|path| *path == file || *path == new || *path == old), "{paths:?}");
    }
}
