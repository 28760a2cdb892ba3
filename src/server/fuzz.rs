//! Entry point for fuzzing: whatever a client sends and however it is cut, the library behind us reads what was checked.

use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Duration,
};

use super::{exchange::Exchanges, raw::Raw};
use crate::http::head::{self, BadHead, Framing, Scan};

/// What came of one head, as seen behind the adapter or as it ought to be.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// Method, target and number of fields; the body where a length says how long it is, as far as it came.
    Request { line: Vec<u8>, fields: usize, body: Option<Vec<u8>> },
    /// Refused for this.
    Refused(BadHead),
}

/// Bytes of a connection; the first says how they are cut.
pub fn head(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let piece = usize::from(*piece).max(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let _inside = runtime.as_ref().map(tokio::runtime::Runtime::enter);
    assert_eq!(behind(bytes, piece), ought(bytes), "the library reads something else, in pieces of {piece}");
}

/// What the checks say of the whole.
fn ought(mut bytes: &[u8]) -> Vec<Seen> {
    let mut all = Vec::new();
    loop {
        let whole = match Scan::default().advance(bytes) {
            Ok(None) => return all,
            Ok(Some(end)) => bytes.split_at_checked(end).ok_or(BadHead::LineEnd),
            Err(bad) => Err(bad),
        };
        let checked = whole.and_then(|(head, rest)| head::check(head).map(|verdict| (head, rest, verdict)));
        let (head, rest, verdict) = match checked {
            Ok(checked) => checked,
            Err(bad) => {
                all.push(Seen::Refused(bad));
                return all;
            }
        };
        let head = head.strip_prefix(b"\r\n").unwrap_or(head);
        let mut lines = head.split(|b| *b == b'\n').filter(|line| !matches!(line, [] | [b'\r']));
        let line = lines
            .next()
            .and_then(|line| line.strip_suffix(b" HTTP/1.1\r").or(line.strip_suffix(b" HTTP/1.0\r")));
        let line = as_the_library_writes_it(line.unwrap_or_default());
        let fields = lines.count();
        let length = match verdict.framing {
            Framing::None => 0,
            Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
            Framing::Chunked => {
                all.push(Seen::Request { line, fields, body: None });
                return all;
            }
        };
        let (body, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        all.push(Seen::Request { line, fields, body: Some(body.to_vec()) });
        // The last of a connection of HTTP/1.0, or of one that is to be closed.
        if body.len() < length || closes(head) {
            return all;
        }
        bytes = after;
    }
}

/// A method and target, with the scheme in small letters and `/` for no path: what means the same (RFC 9110 §4.2.3).
fn as_the_library_writes_it(line: &[u8]) -> Vec<u8> {
    const SCHEME: &[u8] = b"https://";
    let Some(space) = line.iter().position(|b| *b == b' ') else { return line.to_vec() };
    let (method, target) = line.split_at(space + 1);
    let Some((scheme, rest)) = target.split_at_checked(SCHEME.len()) else { return line.to_vec() };
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return line.to_vec();
    }
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let no_path: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
    [method, SCHEME, authority, no_path, path].concat()
}

/// Whether the client closes after this request (RFC 9112 §9.3).
fn closes(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let lines = text.split("\r\n").filter_map(|line| line.strip_prefix("connection:"));
    let options: Vec<_> = lines.flat_map(|value| value.split(',').map(str::trim)).collect();
    let current = text.split("\r\n").next().is_some_and(|line| line.ends_with("http/1.1"));
    options.contains(&"close") || !current && !options.contains(&"keep-alive")
}

/// What the library sees of bytes that come in such pieces.
fn behind(bytes: &[u8], piece: usize) -> Vec<Seen> {
    let exchanges = Exchanges::new();
    let all = Rc::new(RefCell::new(Vec::new()));
    let stream = Pieces { bytes: bytes.to_vec(), at: 0, piece };
    let raw = Raw::new(stream, Arc::clone(&exchanges), Duration::from_secs(3600));
    let service = service_fn(|request: Request<Incoming>| {
        let (verdict, all) = (exchanges.verdict(), Rc::clone(&all));
        async move { Ok::<_, Infallible>(answer(verdict, request, &all).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(super::MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(raw), service);
    until_quiet(connection);
    all.take()
}

async fn answer(
    verdict: Result<(), BadHead>,
    request: Request<Incoming>,
    all: &RefCell<Vec<Seen>>,
) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::default());
    let chunked = request.headers().contains_key("transfer-encoding");
    if verdict.is_err() || chunked {
        reply.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
    }
    if let Err(bad) = verdict {
        all.borrow_mut().push(Seen::Refused(bad));
        return reply;
    }
    let (parts, mut body) = request.into_parts();
    let target = parts.uri.to_string();
    let line = format!("{} {target}", parts.method).into_bytes();
    let at = all.borrow().len();
    let seen = Seen::Request { line, fields: parts.headers.len(), body: (!chunked).then(Vec::new) };
    all.borrow_mut().push(seen);
    while let Some(Ok(frame)) = body.frame().await {
        if let (Some(Seen::Request { body: Some(so_far), .. }), Ok(data)) =
            (all.borrow_mut().get_mut(at), frame.into_data())
        {
            so_far.extend_from_slice(&data);
        }
    }
    reply
}

/// Polls for as long as anything moves.
fn until_quiet(future: impl Future) {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut future = pin!(future);
    while woken.0.swap(false, Ordering::Relaxed) {
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            return;
        }
    }
}

/// A client that sends its bytes in pieces and then waits, and takes whatever it gets.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let now = rest.len().min(self.piece).min(out.remaining());
        if now == 0 {
            return Poll::Pending;
        }
        out.put_slice(rest.get(..now).unwrap_or_default());
        self.at += now;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Requests whole and torn, bodies that look like requests, and what smugglers send.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        let words: [&[u8]; 25] = [
            b"GET /a/b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            b"POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n",
            b"POST /a/b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST /a/b HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
            b"GET https://a/a?b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET httPs://a?b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /a/b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET refused://head/ HTTP/1.1\r\n\r\n",
            b"5\r\nhello\r\n",
            b"0\r\n\r\n",
            b"POST /a HTTP/1.1\r\n",
            b"Host: a\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Expect: 100-continue\r\n",
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"abc",
            b" ",
            b"Connection: close\r\n",
            b"GET / HTTP/1.1\r\n",
        ];
        prop_oneof![
            9 => proptest::sample::select(words.map(<[u8]>::to_vec).to_vec()),
            1 => proptest::collection::vec(any::<u8>(), 0..6),
        ]
    }

    proptest! {
        #[test]
        fn c03_the_library_reads_what_was_checked_whatever_comes_in_whatever_pieces(
            pieces in proptest::collection::vec(piece(), 0..8), cut in 1u8..=255
        ) {
            for cut in [cut, 1, 255] {
                head(&[&[cut][..], &pieces.concat()].concat());
            }
        }
    }
}
