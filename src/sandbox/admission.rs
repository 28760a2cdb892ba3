//! What may be admitted, and why something is not, in words for its author.

use std::sync::Arc;

use super::{
    artefact::ArtefactError,
    layout::{LayoutError, LayoutLimits},
    portable::{self, Missing, Off},
    process::{ProcessError, Stop},
    world::HANDLER,
};

/// Upper bounds for what is offered to the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Size of a binary component.
    pub binary_bytes: usize,
    /// Size of component text, which is for small and hand-written ones.
    pub text_bytes: usize,
    /// What may be in it.
    pub layout: LayoutLimits,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self { binary_bytes: 32 << 20, text_bytes: 1 << 20, layout: LayoutLimits::default() }
    }
}

impl AdmissionLimits {
    /// Whether these bytes are few enough for their form to be offered at all.
    pub(super) fn check_size(&self, component: &[u8]) -> Result<(), AdmissionError> {
        let is_text = !component.starts_with(b"\0asm");
        let (form, limit) = if is_text { ("text", self.text_bytes) } else { ("binary", self.binary_bytes) };
        match component.len() {
            bytes if bytes > limit => Err(AdmissionError::TooLarge { form, bytes, limit }),
            _ => Ok(()),
        }
    }
}

/// Why a component is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// Too large for its form.
    #[error("the {form} component has {bytes} bytes, of {limit} allowed")]
    TooLarge {
        /// `binary` or `text`.
        form: &'static str,
        /// How large.
        bytes: usize,
        /// Of how much.
        limit: usize,
    },
    /// The text does not parse; the message has line, column and the line itself.
    #[error("the component text does not parse: {message}")]
    Text {
        /// The parser's words.
        message: String,
    },
    /// Not a component, or too much in it.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Not valid, or beyond what the pool can hold.
    #[error("the component is not valid here: {reason}")]
    Invalid {
        /// The compiler's words.
        reason: String,
    },
    /// Too much for the compiler.
    #[error("the compiler was stopped {0}")]
    Stopped(Stop),
    /// The compiler could not be asked.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// An import that nothing was declared for.
    #[error("the component imports `{import}`, which its manifest does not declare")]
    Import {
        /// Its name.
        import: String,
    },
    /// An import that the portable world does not have.
    #[error("the component imports {0}")]
    Withheld(Missing),
    /// A component of the portable world, where there is none.
    #[error("the component is made for `wasi:http/proxy`, {0}")]
    Portable(#[from] Off),
    /// Made for `wasi:http` 0.3.
    #[error(
        "the component is made for `wasi:http` 0.3, whose asynchronous calls the engine has turned off here: build it for \
         `wasi:http/proxy` 0.2"
    )]
    Asynchronous,
    /// No handler.
    #[error("the component exports neither `{HANDLER}` nor `wasi:http/incoming-handler` 0.2")]
    NoHandler,
    /// A handler of other types.
    #[error("the export `{HANDLER}` is not the world's: {reason}")]
    HandlerType {
        /// Where the types part.
        reason: String,
    },
    /// It takes longer than whoever asked can wait.
    #[error("compiling the component goes on; until it has ended, what served before stays in force")]
    UnderWay,
    /// As before, or as for whoever asked first.
    #[error(transparent)]
    Known(Arc<AdmissionError>),
    /// The file was changed since it was admitted.
    #[error("the file is no longer the component that was admitted")]
    Changed,
    /// The component is neither stored nor where it came from.
    #[error("the component is no longer available")]
    Gone {
        /// Why the stored artefact did not serve.
        #[source]
        source: Option<ArtefactError>,
    },
}

impl AdmissionError {
    pub(super) fn invalid(error: wasmtime::Error) -> Self {
        Self::Invalid { reason: printable(&format!("{error:#}")) }
    }

    /// The same, told of a file: the parser of component text knows none, and the compile process is told none.
    #[must_use]
    pub fn in_file(self, path: &str) -> Self {
        let message = match &self {
            Self::Text { message } => message,
            Self::Known(known) => match &**known {
                Self::Text { message } => message,
                _ => return self,
            },
            _ => return self,
        };
        Self::Text { message: message.replacen(NO_FILE, &format!("--> {}:", printable(path)), 1) }
    }

    /// Whether it is no refusal yet: see [`Self::UnderWay`].
    pub fn is_under_way(&self) -> bool {
        match self {
            Self::UnderWay => true,
            Self::Known(known) => known.is_under_way(),
            _ => false,
        }
    }

    /// The same in words that help whoever made these bytes.
    pub(super) fn told_of(self, component: &[u8]) -> Self {
        match self {
            Self::Invalid { .. } if portable::is_of_3(component) => Self::Asynchronous,
            other => other,
        }
    }
}

/// Text that may quote a component: bounded, and without what a terminal would obey (F35). Lines stay lines.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() >= MAX_QUOTED_BYTES {
            out.push('…');
            break;
        }
        match c {
            '\n' => out.push('\n'),
            c if c.is_control() || BIDI.contains(&c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// How the parser of component text names a file that it does not know.
const NO_FILE: &str = "--> <anon>:";

/// Enough for a parser's message with its source line.
const MAX_QUOTED_BYTES: usize = 600;

/// Embeddings, overrides and isolates (UAX 9): they reorder what is read.
const BIDI: [char; 9] = [
    '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}',
    '\u{2069}',
];
