//! What the gateway and its compile process say to each other.
//!
//! The job is an argument; the component is the whole of standard input. The answer on standard output is magic, length of
//! the head, head (JSON), and then the artefact, if there is one, to the end. Nothing of it is believed: every length is
//! bounded before it is used, text is made printable, and the artefact must have the digest that the head tells, so that an
//! answer that was cut off is no answer.

use std::io::{self, Read, Write};

use aws_lc_rs::digest::{self, SHA256};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        admission::{AdmissionError, printable},
        artefact::{Artefact, Digest, MAX_ARTEFACT_BYTES},
        layout::{Layout, LayoutError, LayoutLimits},
        sealed::Sealed,
    },
    CompileLimits,
};

/// What the gateway asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Job {
    /// What the process may use up: it sets this on itself first.
    pub(in super::super) limits: CompileLimits,
    /// What a component may contain.
    pub(in super::super) layout: LayoutLimits,
    /// Whether memories are to begin as copy-on-write images: code depends on it.
    pub(in super::super) copy_on_write: bool,
}

/// The head of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Head {
    /// The artefact follows.
    Artefact { layout: Layout, sha256: String },
    /// There is none.
    Refused(Refusal),
}

/// Why a component is not compiled.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum Refusal {
    /// The text does not parse.
    Text { message: String },
    /// Not a component, or too much in it.
    Layout(LayoutError),
    /// Not valid.
    Invalid { reason: String },
}

impl From<Refusal> for AdmissionError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Text { message } => Self::Text { message: printable(&message) },
            Refusal::Layout(LayoutError::NotAComponent(told)) => {
                Self::Layout(LayoutError::NotAComponent(printable(&told).into()))
            }
            Refusal::Layout(LayoutError::TooMany { what, count, limit }) => {
                Self::Layout(LayoutError::TooMany { what: printable(&what).into(), count, limit })
            }
            Refusal::Layout(malformed @ LayoutError::Malformed { .. }) => Self::Layout(malformed),
            Refusal::Invalid { reason } => Self::Invalid { reason: printable(&reason) },
        }
    }
}

/// What a compile process made.
#[derive(Debug)]
pub(in super::super) struct Compiled {
    /// What is in the component.
    pub(in super::super) layout: Layout,
    /// Its machine code.
    pub(in super::super) artefact: Artefact,
}

/// Writes an answer.
pub(in super::super) fn write(
    answer: Result<(Layout, Vec<u8>), Refusal>,
    to: &mut dyn Write,
) -> io::Result<()> {
    let (head, artefact) = match answer {
        Ok((layout, artefact)) => {
            let sha256 = Digest::of(&artefact).to_string();
            (Head::Artefact { layout, sha256 }, artefact)
        }
        Err(refusal) => (Head::Refused(refusal), Vec::new()),
    };
    let head = serde_json::to_vec(&head)?;
    let length = u32::try_from(head.len()).map_err(io::Error::other)?;
    to.write_all(MAGIC)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(&head)?;
    to.write_all(&artefact)?;
    to.flush()
}

/// Reads an answer to its end; `None` is none, however it fails to be one.
pub(super) fn read(from: &mut impl Read) -> Option<Result<Compiled, Refusal>> {
    let mut magic = [0; MAGIC.len()];
    let mut length = [0; 4];
    from.read_exact(&mut magic).ok()?;
    from.read_exact(&mut length).ok()?;
    let length = u32::from_le_bytes(length);
    if magic != *MAGIC || length > MAX_HEAD_BYTES {
        return None;
    }
    let mut head = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut head).ok()?;
    match serde_json::from_slice(&head).ok()? {
        Head::Artefact { layout, sha256 } => {
            let sealed = Sealed::copy(from, MAX_ARTEFACT_BYTES).ok()?;
            // Of the sealed copy, so that what was checked is what is loaded.
            let mut context = digest::Context::new(&SHA256);
            sealed
                .read(|piece| {
                    context.update(piece);
                    Ok(())
                })
                .ok()?;
            (Digest::from(context.finish()).to_string() == sha256)
                .then(|| Ok(Compiled { layout, artefact: Artefact::compiled(sealed) }))
        }
        Head::Refused(refusal) => (from.read(&mut [0]).ok()? == 0).then_some(Err(refusal)),
    }
}

const MAGIC: &[u8; 8] = b"sandgate";

/// A refusal quotes 600 bytes, which JSON may write six times as long.
const MAX_HEAD_BYTES: u32 = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Vec<u8> {
        let mut bytes = Vec::new();
        write(Ok((Layout::default(), b"machine code".to_vec())), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn f08_an_answer_is_whole_or_none() {
        let whole = answer();
        let read_back = read(&mut whole.as_slice()).unwrap().unwrap();
        assert_eq!(read_back.layout, Layout::default());
        for cut in 0..whole.len() {
            assert!(read(&mut whole.get(..cut).unwrap()).is_none(), "{cut}");
        }
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            // Numbers in the layout are told, not relied on; everything else is caught.
            if let Some(told) = read(&mut bad.as_slice()) {
                assert_ne!(told.unwrap().layout, Layout::default(), "{at}");
            }
        }
        assert!(read(&mut [whole.as_slice(), b"x"].concat().as_slice()).is_none());
        let endless = [MAGIC.as_slice(), &u32::MAX.to_le_bytes(), &[b' '; 100]].concat();
        assert!(read(&mut endless.as_slice()).is_none());
    }

    #[test]
    fn f08_f35_a_refusal_is_made_printable_again() {
        let mut bytes = Vec::new();
        write(Err(Refusal::Invalid { reason: format!("\u{1b}[2J{}", "x".repeat(2000)) }), &mut bytes)
            .unwrap();
        let told = AdmissionError::from(read(&mut bytes.as_slice()).unwrap().unwrap_err()).to_string();
        assert!(told.contains("\\u{1b}[2J") && told.len() < 700, "{told}");
        assert!(read(&mut [bytes.as_slice(), b"x"].concat().as_slice()).is_none());
    }
}
