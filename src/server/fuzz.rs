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

use super::{connection::MAX_BUFFER_BYTES, exchange::Exchanges, raw::Raw};
use crate::http::head::{self, BadHead, Framing, Scan};

/// What came of one head, as seen behind the adapter or as it ought to be.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// A request; its body where a length says how long it is, as far as it came.
    Request { method: String, authority: String, target: String, fields: Fields, body: Option<Vec<u8>> },
    /// Refused for this.
    Refused(BadHead),
}

/// Names and values, by name: the library keeps the order of values alone.
type Fields = Vec<(String, Vec<u8>)>;

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
        let request = |body| plainly(head, body);
        let length = match verdict.framing {
            Framing::None => 0,
            Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
            Framing::Chunked => {
                all.push(request(None));
                return all;
            }
        };
        let (body, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        all.push(request(Some(body.to_vec())));
        // The last of a connection of HTTP/1.0, or of one that is to be closed.
        if body.len() < length || closes(head) {
            return all;
        }
        bytes = after;
    }
}

/// The plainest reading of a head that passed the check: lines, words, colons.
fn plainly(head: &[u8], body: Option<Vec<u8>>) -> Seen {
    let mut lines = head.split(|b| *b == b'\n').filter_map(|line| line.strip_suffix(b"\r"));
    let line = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (authority, target) = match target.split_once("://").filter(|_| !target.starts_with('/')) {
        None => (String::new(), target),
        Some((_, rest)) => {
            let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            let slash = if target.starts_with('/') { "" } else { "/" };
            (authority.to_owned(), format!("{slash}{target}"))
        }
    };
    let fields = lines.filter(|line| !line.is_empty()).filter_map(|line| {
        let colon = line.iter().position(|b| *b == b':')?;
        let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
        Some((String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim_ascii().to_vec()))
    });
    Seen::Request { method, authority, target, fields: by_name(fields), body }
}

fn by_name(fields: impl Iterator<Item = (String, Vec<u8>)>) -> Fields {
    let mut fields: Fields = fields.collect();
    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
    fields
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
        .max_buf_size(MAX_BUFFER_BYTES)
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
    let at = all.borrow().len();
    all.borrow_mut().push(Seen::Request {
        method: parts.method.to_string(),
        authority: parts.uri.authority().map(ToString::to_string).unwrap_or_default(),
        target: match parts.uri.query() {
            Some(query) => format!("{}?{query}", parts.uri.path()),
            None => parts.uri.path().to_owned(),
        },
        fields: by_name(
            parts.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())),
        ),
        body: (!chunked).then(Vec::new),
    });
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
mod tests;
