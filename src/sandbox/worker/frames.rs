//! Frames: how gateway and worker cut what they say to each other.
//!
//! A frame is a head of nine bytes (length of the body, kind, id; little-endian) and its body. Whoever reads says how long a body
//! may be before any of it is kept: each side believes the other as little as a client.

use bytes::{Buf, Bytes, BytesMut};

/// What a frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To the worker: a function, whose artefact comes along as a descriptor.
    Load,
    /// To the worker: nobody calls that function any more.
    Unload,
    /// To the worker: run a function on an event.
    Call,
    /// To the worker: nobody waits for that call any more.
    Cancel,
    /// To the gateway: what came of a call.
    Answer,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Load, Self::Unload, Self::Call, Self::Cancel, Self::Answer];
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the body.
    pub(super) length: u32,
    /// What it is about.
    pub(super) kind: Kind,
    /// Of a call, or of a function.
    pub(super) id: u32,
}

/// Begins a frame; [`finish`] ends it.
pub(super) fn begin(kind: Kind, capacity: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD_BYTES + capacity);
    frame.extend_from_slice(&[0; HEAD_BYTES]);
    if let Some(byte) = frame.get_mut(KIND_AT) {
        *byte = kind as u8;
    }
    frame
}

/// Gives a frame its length and its id; `None` if it is longer than a length can say.
pub(super) fn finish(mut frame: Vec<u8>, id: u32) -> Option<Vec<u8>> {
    let length = u32::try_from(frame.len().checked_sub(HEAD_BYTES)?).ok()?;
    frame.get_mut(..KIND_AT)?.copy_from_slice(&length.to_le_bytes());
    frame.get_mut(ID_AT..HEAD_BYTES)?.copy_from_slice(&id.to_le_bytes());
    Some(frame)
}

/// A frame that has no body.
pub(super) fn bare(kind: Kind, id: u32) -> Vec<u8> {
    finish(begin(kind, 0), id).unwrap_or_default()
}

/// What the other side sent is not what it may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Garbled {
    /// A kind that nobody knows, or that is the other side's to send.
    #[error("a frame of no kind that it may send")]
    Kind,
    /// More than may be said.
    #[error("a frame of {length} bytes, of {most} allowed")]
    TooLong {
        /// As its head has it.
        length: u32,
        /// Of how much.
        most: usize,
    },
    /// An answer to what was not asked.
    #[error("an answer to no call")]
    Unasked,
    /// The body is not what its kind has.
    #[error("a frame whose body does not parse")]
    Body,
    /// Numbers that cannot be.
    #[error("an answer that cannot be true: {0}")]
    Untrue(&'static str),
}

/// Bytes as they arrive, and the frames in them.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    buffer: BytesMut,
}

impl Splitter {
    /// Where bytes that arrive are put.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame, if it is whole. `most` says how long a body with that head may be.
    pub(super) fn next(
        &mut self,
        most: impl FnOnce(&Head) -> Result<usize, Garbled>,
    ) -> Result<Option<(Head, Bytes)>, Garbled> {
        let Some((head, _)) = self.buffer.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let head = parse(*head)?;
        let most = most(&head)?;
        let length = usize::try_from(head.length).unwrap_or(usize::MAX);
        if length > most {
            return Err(Garbled::TooLong { length: head.length, most });
        }
        if self.buffer.len() - HEAD_BYTES < length {
            self.buffer.reserve(length + HEAD_BYTES - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEAD_BYTES);
        Ok(Some((head, self.buffer.split_to(length).freeze())))
    }
}

fn parse(head: [u8; HEAD_BYTES]) -> Result<Head, Garbled> {
    let [l0, l1, l2, l3, kind, i0, i1, i2, i3] = head;
    let kind = Kind::ALL.get(usize::from(kind)).copied().ok_or(Garbled::Kind)?;
    let (length, id) = (u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([i0, i1, i2, i3]));
    Ok(Head { length, kind, id })
}

/// Length, kind, id.
pub(super) const HEAD_BYTES: usize = 9;
const KIND_AT: usize = 4;
const ID_AT: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: Kind, id: u32, body: &[u8]) -> Vec<u8> {
        let mut frame = begin(kind, body.len());
        frame.extend_from_slice(body);
        finish(frame, id).unwrap()
    }

    #[test]
    fn f30_frames_arrive_as_they_were_sent_however_they_are_cut() {
        let bytes =
            [frame(Kind::Call, 7, b"seven"), frame(Kind::Cancel, 8, b""), frame(Kind::Load, 9, &[1; 70])];
        let bytes = bytes.concat();
        for piece in [1, 2, 8, 9, 10, 100] {
            let (mut splitter, mut seen) = (Splitter::default(), Vec::new());
            for chunk in bytes.chunks(piece) {
                splitter.buffer().extend_from_slice(chunk);
                while let Some((head, body)) = splitter.next(|_| Ok(70)).unwrap() {
                    seen.push((head.kind, head.id, body.len()));
                }
            }
            assert_eq!(seen, [(Kind::Call, 7, 5), (Kind::Cancel, 8, 0), (Kind::Load, 9, 70)]);
        }
    }

    #[test]
    fn f30_a_length_is_bounded_before_anything_is_kept_for_it() {
        let mut splitter = Splitter::default();
        splitter.buffer().extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 4, 0, 0, 0, 0]);
        assert_eq!(splitter.next(|_| Ok(1000)), Err(Garbled::TooLong { length: u32::MAX, most: 1000 }));
        assert!(splitter.buffer().capacity() < 1000);
    }

    #[test]
    fn f30_a_kind_that_nobody_knows_is_garbled() {
        let mut splitter = Splitter::default();
        splitter.buffer().extend_from_slice(&[0, 0, 0, 0, 5, 0, 0, 0, 0]);
        assert_eq!(splitter.next(|_| Ok(1000)), Err(Garbled::Kind));
    }
}
