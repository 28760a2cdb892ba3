//! What waits to be sent on a socket that never blocks: both ends use it.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::{io::Interest, net::UnixStream};

use super::super::artefact::Artefact;

/// Frames in order. A frame is sent at once where the kernel has room for it, and else when it has.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Parcel>,
    bytes: usize,
}

/// Bytes, and an artefact whose descriptor goes with the first of them.
#[derive(Debug)]
struct Parcel {
    bytes: Bytes,
    artefact: Option<Arc<Artefact>>,
}

impl Outbox {
    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends a frame, or puts it behind those that wait.
    pub(super) fn send(
        &mut self,
        socket: &UnixStream,
        frame: Vec<u8>,
        artefact: Option<Arc<Artefact>>,
    ) -> io::Result<()> {
        let nothing_waits = self.waiting.is_empty();
        self.bytes += frame.len();
        self.waiting.push_back(Parcel { bytes: frame.into(), artefact });
        if nothing_waits { self.flush(socket) } else { Ok(()) }
    }

    /// Sends as much as the kernel takes now.
    pub(super) fn flush(&mut self, socket: &UnixStream) -> io::Result<()> {
        while let Some(parcel) = self.waiting.front_mut() {
            let artefact = parcel.artefact.as_deref().map(Artefact::descriptor);
            let sent =
                match socket.try_io(Interest::WRITABLE, || send(socket.as_fd(), &parcel.bytes, artefact)) {
                    Ok(sent) => sent,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                };
            parcel.artefact = None;
            parcel.bytes.advance(sent.min(parcel.bytes.len()));
            self.bytes -= sent.min(self.bytes);
            if parcel.bytes.is_empty() {
                self.waiting.pop_front();
            }
        }
        Ok(())
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives what is there: bytes behind `buffer`, descriptors behind `descriptors`. Gives how many bytes came; none is the end.
pub(super) fn receive(
    socket: &UnixStream,
    buffer: &mut BytesMut,
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let before = buffer.len();
    buffer.resize(before + PIECE_BYTES, 0);
    let received = socket.try_io(Interest::READABLE, || {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let place = buffer.get_mut(before..).unwrap_or_default();
        let told = recvmsg(socket, &mut [io::IoSliceMut::new(place)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if told.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other("descriptors were lost"));
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        Ok(told.bytes)
    });
    buffer.truncate(before + received.as_ref().map_or(0, |bytes| *bytes));
    received
}

/// What is asked of the kernel at once.
const PIECE_BYTES: usize = 16 << 10;
