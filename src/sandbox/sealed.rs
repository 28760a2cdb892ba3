//! Bytes in memory that nobody can change any more, ourselves included.
//!
//! What is checked and then used must be the same bytes (F9): a file can be rewritten between the two, and so can memory
//! that a stray write reaches. A sealed file in memory cannot: the kernel refuses every write, and every mapping that could
//! write through to it, from whichever process.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::PathBuf,
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

/// A file in memory with all its seals on.
#[derive(Debug)]
pub(super) struct Sealed {
    file: File,
}

impl Sealed {
    /// Copies what is read to its end, and seals the copy. More than `most` bytes are an error.
    pub(super) fn copy(mut from: impl Read, most: u64) -> io::Result<Self> {
        let mut file = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
        io::copy(&mut from.by_ref().take(most), &mut file)?;
        // At the end a further byte is not there; `take` alone would hide that it is.
        if from.read(&mut [0])? > 0 {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {most} bytes")));
        }
        fcntl_add_seals(&file, SEALS)?;
        Ok(Self { file })
    }

    /// A file that somebody else sealed: whether it is, [`Self::is_sealed`] says.
    pub(super) fn received(descriptor: OwnedFd) -> Self {
        Self { file: File::from(descriptor) }
    }

    /// The file, to be sent to another process.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Passes all bytes on in pieces, as they are in the sealed file.
    pub(super) fn read(&self, mut piece: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut at = 0;
        loop {
            let count = self.file.read_at(&mut buffer, at)?;
            match buffer.get(..count) {
                Some(read) if count > 0 => piece(read)?,
                _ => return Ok(()),
            }
            at += count as u64;
        }
    }

    /// Writes all bytes.
    pub(super) fn write_to(&self, to: &mut impl Write) -> io::Result<()> {
        self.read(|piece| to.write_all(piece))
    }

    /// A name under which this process can open the file for as long as `self` lives. The kernel resolves it to this file, not
    /// to a path that somebody else could put another file at.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Whether every seal is on.
    pub(super) fn is_sealed(&self) -> bool {
        fcntl_get_seals(&self.file).is_ok_and(|seals| seals.contains(SEALS))
    }

    /// The file with its position at the beginning, for a process to read as its standard input.
    pub(super) fn into_input(self) -> io::Result<File> {
        use std::io::Seek;
        let mut file = self.file;
        file.rewind()?;
        Ok(file)
    }
}

/// Neither contents nor length can change, and no seal can be taken off.
const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// What `/proc/PID/maps` shows.
const NAME: &str = "sandgate";

const PIECE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn f09_what_is_sealed_cannot_be_changed_by_anybody() {
        let sealed = Sealed::copy(b"machine code".as_slice(), 100).unwrap();
        assert!(sealed.is_sealed());
        let again = OpenOptions::new().read(true).write(true).open(sealed.path()).unwrap();
        for file in [&sealed.file, &again] {
            assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(file.write_at(b"x", 12).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(file.set_len(3).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(file.set_len(30).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert!(fcntl_add_seals(file, SealFlags::FUTURE_WRITE).is_err());
        }
        let mut read = Vec::new();
        sealed.write_to(&mut read).unwrap();
        assert_eq!(read, b"machine code");
    }

    #[test]
    fn a_copy_is_bounded_and_whole() {
        let long = vec![7; 3 * PIECE_BYTES + 5];
        assert!(Sealed::copy(long.as_slice(), long.len() as u64 - 1).is_err());
        let sealed = Sealed::copy(long.as_slice(), long.len() as u64).unwrap();
        let mut read = Vec::new();
        sealed.into_input().unwrap().read_to_end(&mut read).unwrap();
        assert!(read == long);
    }
}
