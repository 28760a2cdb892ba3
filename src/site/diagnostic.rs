//! What is wrong with a site, said so that its author can mend it: file, line, cause, remedy, the source underlined.
//!
//! Every stage that compiles a part of a site reports in this form; `check` prints it, `/readyz` and the log say it.

use std::{ops::Range, sync::Arc};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet, normalize_untrusted_str};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

/// One file of a site as it was read: its path within the site, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Path relative to the site, with `/`.
    pub path: Arc<str>,
    /// The whole text.
    pub text: Arc<str>,
}

impl Source {
    /// A source of that path and text.
    pub fn new(path: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// Line of a byte offset, counted from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The part is refused.
    Fault,
    /// The part is served; its author probably meant something else.
    Warning,
}

impl Severity {
    /// The word for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Warning => "warning",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Fault or warning.
    pub severity: Severity,
    /// What is wrong: lower case, no full stop, input in backticks.
    pub message: String,
    /// Where: the file, and bytes within it when they are known.
    pub source: Option<(Source, Option<Range<usize>>)>,
    /// What to do.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A fault: the part is refused.
    pub fn fault(message: impl Into<String>) -> Self {
        Self { severity: Severity::Fault, message: message.into(), source: None, hint: None }
    }

    /// A warning: the part is served all the same.
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::fault(message) }
    }

    /// Concerns this whole file.
    #[must_use]
    pub fn in_file(mut self, source: &Source) -> Self {
        self.source = Some((source.clone(), None));
        self
    }

    /// Concerns these bytes of this file.
    #[must_use]
    pub fn at(mut self, source: &Source, span: Range<usize>) -> Self {
        self.source = Some((source.clone(), Some(span)));
        self
    }

    /// What the author can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether the part is refused.
    pub fn is_fault(&self) -> bool {
        self.severity == Severity::Fault
    }

    /// The file it concerns, relative to the site.
    pub fn path(&self) -> Option<&str> {
        self.source.as_ref().map(|(source, _)| &*source.path)
    }

    /// The line it concerns, counted from 1.
    pub fn line(&self) -> Option<usize> {
        match &self.source {
            Some((source, Some(span))) => Some(source.line(span.start)),
            _ => None,
        }
    }

    /// The column where it begins, in characters, counted from 1.
    pub fn column(&self) -> Option<usize> {
        match &self.source {
            Some((source, Some(span))) => {
                let start = source.text.floor_char_boundary(span.start);
                let before = source.text.get(..start).unwrap_or_default();
                Some(before.chars().rev().take_while(|c| *c != '\n').count() + 1)
            }
            _ => None,
        }
    }

    /// `file:line: message`, on one line, for the log; control characters that an author wrote are escaped
    /// (hardening F35).
    pub fn one_line(&self) -> String {
        let place = match (self.path(), self.line()) {
            (Some(path), Some(line)) => format!("{path}:{line}: "),
            (Some(path), None) => format!("{path}: "),
            (None, _) => String::new(),
        };
        let mut text = String::with_capacity(place.len() + self.message.len());
        for c in place.chars().chain(self.message.chars()) {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        text
    }

    /// The whole report with the source underlined; `colour` for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let level = match self.severity {
            Severity::Fault => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(self.message.as_str()));
        match &self.source {
            Some((source, Some(span))) => {
                let span = on_characters(&source.text, span);
                group = group.element(
                    Snippet::source(&*source.text)
                        .path(&*source.path)
                        .annotation(AnnotationKind::Primary.span(span)),
                );
            }
            Some((source, None)) => group = group.element(Origin::path(&*source.path)),
            None => {}
        }
        if let Some(hint) = &self.hint {
            // The renderer prints this element as it is, and a hint may quote what an author wrote (hardening F35).
            group = group.element(Level::HELP.message(normalize_untrusted_str(hint)));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

/// For `check --json`: what a program needs to show it at its place.
impl Serialize for Diagnostic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Diagnostic", 6)?;
        fields.serialize_field("severity", self.severity.as_str())?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("file", &self.path())?;
        fields.serialize_field("line", &self.line())?;
        fields.serialize_field("column", &self.column())?;
        fields.serialize_field("hint", &self.hint)?;
        fields.end()
    }
}

/// The span within the text and on character boundaries, as the renderer demands.
fn on_characters(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start);
    start..text.ceil_char_boundary(span.end.max(start))
}

/// An error and the chain of its causes, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source::new("policies/acme/tenant.toml", "name = \"Café\"\nisuers = []\n")
    }

    #[test]
    fn a_report_underlines_the_source() {
        let report = Diagnostic::fault("unknown key `isuers`").at(&source(), 15..21).hint("write `issuers`");
        insta::assert_snapshot!(report.render(false), @r#"
        error: unknown key `isuers`
         --> policies/acme/tenant.toml:2:1
          |
        2 | isuers = []
          | ^^^^^^
          |
          = help: write `issuers`
        "#);
        assert_eq!(report.one_line(), "policies/acme/tenant.toml:2: unknown key `isuers`");
    }

    #[test]
    fn a_program_gets_file_line_and_column() {
        let text = serde_json::to_string(&Diagnostic::fault("odd").at(&source(), 12..13)).unwrap();
        insta::assert_snapshot!(text, @r#"{"severity":"fault","message":"odd","file":"policies/acme/tenant.toml","line":1,"column":12,"hint":null}"#);
    }

    #[test]
    fn a_span_outside_the_text_or_inside_a_character_is_mended() {
        for span in [11..12, 12..12, 500..900, 3..usize::MAX] {
            let report = Diagnostic::warning("odd").at(&source(), span.clone());
            assert!(report.render(true).contains("odd"), "{span:?}");
        }
        assert!(Diagnostic::fault("empty").at(&Source::new("p", ""), 0..4).render(false).contains("p:1:1"));
    }

    #[test]
    fn f35_control_characters_of_authors_do_not_reach_terminal_or_log() {
        let report = Diagnostic::fault("no `\u{1b}[2J\n`").in_file(&source()).hint("not `\u{1b}[2J`");
        assert!(!report.render(false).contains('\u{1b}'));
        assert_eq!(report.one_line(), r"policies/acme/tenant.toml: no `\u{1b}[2J\n`");
    }
}
