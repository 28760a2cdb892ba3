//! Reading files of a folder whose author is not trusted to stay in it.
//!
//! Paths are relative, without `..`; links may be followed, but where they lead must lie in the same folder. The kernel
//! sees to that while it opens the file (`RESOLVE_BENEATH`), so there is no moment between look and leap; where it
//! cannot, and for absolute links, the real path is looked at first. Everything read has a bound.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    str::Utf8Error,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::diagnostic::{Diagnostic, Source};

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("a path is relative to the file that names it, with `/`, and without `..`")]
    NotRelative,
    #[error("it leads out of the tenant's own folder")]
    Escapes,
    #[error("there is no such file")]
    Missing,
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it is larger than {cap} bytes")]
    TooLarge { cap: usize },
    #[error("it is not UTF-8 (byte {})", .0.valid_up_to())]
    NotUtf8(#[source] Utf8Error),
    #[error("it cannot be read: {0}")]
    Io(#[source] io::Error),
}

/// A folder that reading does not leave.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    /// The folder's path within the site, for messages.
    shown: String,
}

impl Folder {
    /// Opens `path`, called `shown` in messages; `None` if there is no such folder.
    pub(super) fn open(path: PathBuf, shown: String) -> io::Result<Option<Self>> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self { fd, path, shown })),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Path of a file of it, as messages say it.
    pub(super) fn shown(&self, relative: &str) -> String {
        format!("{}/{relative}", self.shown)
    }

    /// Names in the folder, sorted, with whether each is a folder (links followed). Names that are not UTF-8 come as
    /// `Err` with what can be shown of them. Reads no more than `most` + 1 names.
    pub(super) fn names(&self, most: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.path)?.take(most + 1) {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| name.to_string_lossy().into_owned());
            let kind = entry.file_type()?;
            let is_folder = if kind.is_symlink() { entry.path().is_dir() } else { kind.is_dir() };
            entries.push(Entry { name, is_folder });
        }
        entries.sort();
        Ok(entries)
    }

    /// Opens a regular file.
    pub(super) fn open_file(&self, relative: &str) -> Result<OpenFile, FileError> {
        if !is_plain(relative) {
            return Err(FileError::NotRelative);
        }
        let fd = self.open_beneath(relative)?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| FileError::Io(error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(FileError::NotAFile);
        }
        Ok(OpenFile { fd, stat })
    }

    /// All of a file, if it has at most `cap` bytes.
    pub(super) fn read(&self, relative: &str, cap: usize) -> Result<Vec<u8>, FileError> {
        self.open_file(relative)?.read(cap)
    }

    /// All of a text file.
    pub(super) fn text(&self, relative: &str, cap: usize) -> Result<String, FileError> {
        self.open_file(relative)?.text(cap)
    }

    /// A text file as a source; `None` where there is none.
    pub(super) fn source(&self, relative: &str, cap: usize) -> Result<Option<Source>, Diagnostic> {
        match self.text(relative, cap) {
            Ok(text) => Ok(Some(Source::new(self.shown(relative), text))),
            // A link that leads nowhere is no absence: what it should have led to may have been a restriction.
            Err(FileError::Missing) if !self.is_link(relative) => Ok(None),
            Err(error) => {
                let file = Source::new(self.shown(relative), "");
                Err(Diagnostic::fault(error.to_string()).in_file(&file))
            }
        }
    }

    /// What changes when a file changes: its size, time of change and inode. Empty if there is no such file.
    pub(super) fn stamp(&self, relative: &str) -> Vec<u8> {
        if !is_plain(relative) {
            return Vec::new();
        }
        rustix::fs::statat(&self.fd, relative, AtFlags::empty()).map_or_else(|_| Vec::new(), |s| stamp(&s))
    }

    fn is_link(&self, relative: &str) -> bool {
        let stat = rustix::fs::statat(&self.fd, relative, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }

    fn open_beneath(&self, relative: &str) -> Result<OwnedFd, FileError> {
        // Non-blocking, since a pipe in place of a file would otherwise hold us until somebody writes to it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.fd, relative, flags, Mode::empty(), resolve) {
            Ok(fd) => Ok(fd),
            // XDEV: the path leaves the folder, or comes back into it by an absolute link. The others: a kernel
            // before 5.6, or a container that does not let us.
            Err(Errno::XDEV | Errno::NOSYS | Errno::PERM | Errno::INVAL) => self.open_real(relative, flags),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(FileError::Missing),
            Err(error) => Err(FileError::Io(error.into())),
        }
    }

    fn open_real(&self, relative: &str, flags: OFlags) -> Result<OwnedFd, FileError> {
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => FileError::Missing,
            _ => FileError::Io(error),
        };
        let root = self.path.canonicalize().map_err(missing)?;
        let real = self.path.join(relative).canonicalize().map_err(missing)?;
        if !real.starts_with(&root) {
            return Err(FileError::Escapes);
        }
        // The last step may not have become a link since.
        rustix::fs::open(&real, flags | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|error| FileError::Io(error.into()))
    }
}

/// A regular file, opened.
#[derive(Debug)]
pub(super) struct OpenFile {
    fd: OwnedFd,
    stat: rustix::fs::Stat,
}

/// A file as it was when it was opened: it is taken to have the same bytes wherever this is the same.
///
/// That holds but for a file that is written twice within one tick of the file system's clock, to the same size. Then the
/// fingerprint of its tenant's part does not change either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

impl OpenFile {
    pub(super) fn identity(&self) -> FileIdentity {
        let stat = &self.stat;
        FileIdentity {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// All of it, if it has at most `cap` bytes.
    pub(super) fn read(self, cap: usize) -> Result<Vec<u8>, FileError> {
        let size = usize::try_from(self.stat.st_size).unwrap_or(usize::MAX);
        if size > cap {
            return Err(FileError::TooLarge { cap });
        }
        // The file may grow while it is read: one byte beyond the cap is enough to know.
        let mut bytes = Vec::with_capacity(size + 1);
        let bound = u64::try_from(cap).unwrap_or(u64::MAX).saturating_add(1);
        File::from(self.fd).take(bound).read_to_end(&mut bytes).map_err(FileError::Io)?;
        if bytes.len() > cap { Err(FileError::TooLarge { cap }) } else { Ok(bytes) }
    }

    /// All of it, if it is text.
    pub(super) fn text(self, cap: usize) -> Result<String, FileError> {
        String::from_utf8(self.read(cap)?).map_err(|error| FileError::NotUtf8(error.utf8_error()))
    }
}

/// One name in a folder.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) name: Result<String, String>,
    pub(super) is_folder: bool,
}

impl Entry {
    /// Whether it is a folder that its author means to be seen: not `.git`, nor what an editor or volume hides.
    pub(super) fn is_visible_folder(&self) -> bool {
        let (Ok(name) | Err(name)) = &self.name;
        self.is_folder && !name.starts_with('.')
    }
}

/// [`Folder::stamp`] of an operator's file, which may lie anywhere.
pub(super) fn stamp_anywhere(path: &Path) -> Vec<u8> {
    rustix::fs::stat(path).map_or_else(|_| Vec::new(), |s| stamp(&s))
}

/// The same, and who may read it: a key whose mode was mended is another file.
pub(super) fn stamp_of_key(path: &Path) -> Vec<u8> {
    let stamp =
        rustix::fs::stat(path).map(|stat| [stamp(&stat), stat.st_mode.to_le_bytes().to_vec()].concat());
    stamp.unwrap_or_default()
}

fn stamp(stat: &rustix::fs::Stat) -> Vec<u8> {
    format!("{} {} {} {}", stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec).into_bytes()
}

/// Whether a path as written is relative, goes only down, and means the same on every system.
pub(super) fn is_plain(relative: &str) -> bool {
    !relative.is_empty()
        && relative.len() <= MAX_PATH_BYTES
        && !relative.contains(['\\', '\0', ':'])
        && relative.split('/').all(|step| !matches!(step, "" | "." | ".."))
}

/// What Linux itself takes for a path is 4096; a site has no use for more than a few folders.
const MAX_PATH_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder(dir: &Path) -> Folder {
        Folder::open(dir.join("acme"), "functions/acme".to_owned()).unwrap().unwrap()
    }

    fn world() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["acme/echo", "globex"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("acme/echo/a.json"), "{}").unwrap();
        std::fs::write(dir.path().join("globex/secret"), "s").unwrap();
        dir
    }

    #[test]
    fn a_path_goes_down_and_nowhere_else() {
        let dir = world();
        let acme = folder(dir.path());
        assert_eq!(acme.read("echo/a.json", 10).unwrap(), b"{}");
        let long = "a/".repeat(600);
        for bad in [
            "",
            "/etc/passwd",
            "../globex/secret",
            "echo/../../globex/secret",
            ".",
            "echo\\a.json",
            "a\0b",
            "C:x",
            "./a",
            "echo//a.json",
            "echo/./a.json",
            "echo/",
            &long,
        ] {
            assert!(matches!(acme.read(bad, 10), Err(FileError::NotRelative)), "{bad}");
            assert!(acme.stamp(bad).is_empty());
        }
        assert!(matches!(acme.read("echo/none", 10), Err(FileError::Missing)));
        assert!(matches!(acme.read("echo/a.json/b", 10), Err(FileError::Missing)));
        assert!(matches!(acme.read("echo", 10), Err(FileError::NotAFile)));
    }

    #[test]
    fn a_link_is_followed_within_the_folder_only() {
        let dir = world();
        let acme = folder(dir.path());
        let link = |to: &Path, name: &str| symlink(to, dir.path().join("acme").join(name)).unwrap();
        link(Path::new("echo/a.json"), "inside");
        link(&dir.path().join("acme/echo/a.json"), "inside-absolute");
        link(Path::new("echo"), "folder");
        link(Path::new("../globex/secret"), "outside");
        link(&dir.path().join("globex/secret"), "outside-absolute");
        link(Path::new("../globex"), "outside-folder");
        link(Path::new("loop"), "loop");
        link(Path::new("/proc/self/environ"), "environ");
        for good in ["inside", "inside-absolute", "folder/a.json"] {
            assert_eq!(acme.read(good, 10).unwrap(), b"{}", "{good}");
        }
        for bad in ["outside", "outside-absolute", "outside-folder/secret", "environ"] {
            assert!(matches!(acme.read(bad, 10), Err(FileError::Escapes)), "{bad}");
        }
        assert!(matches!(acme.read("loop", 10), Err(FileError::Io(_))));
    }

    #[test]
    fn what_is_large_endless_or_no_text_is_refused() {
        let dir = world();
        let acme = folder(dir.path());
        assert!(matches!(acme.read("echo/a.json", 1), Err(FileError::TooLarge { cap: 1 })));
        std::fs::write(dir.path().join("acme/latin1"), b"caf\xe9").unwrap();
        assert_eq!(acme.text("latin1", 10).unwrap_err().to_string(), "it is not UTF-8 (byte 3)");
        let pipe = dir.path().join("acme/pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(matches!(acme.read("pipe", 10), Err(FileError::NotAFile)));
    }
}
