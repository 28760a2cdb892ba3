//! What is wrong with a site, said so that its author can mend it: file, line, cause, remedy, the source underlined.
//!
//! Every stage that compiles a part of a site reports in this form; `check` prints it, `/readyz` and the log say it.

use std::{ops::Range, sync::Arc};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

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

    /// `file:line: message`, on one line, for the log.
    pub fn one_line(&self) -> String {
        match &self.source {
            Some((source, Some(span))) => {
                format!("{}:{}: {}", source.path, source.line(span.start), self.message)
            }
            Some((source, None)) => format!("{}: {}", source.path, self.message),
            None => self.message.clone(),
        }
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
                let end = span.end.min(source.text.len()).max(span.start.min(source.text.len()));
                let start = span.start.min(end);
                group = group.element(
                    Snippet::source(&*source.text)
                        .path(&*source.path)
                        .annotation(AnnotationKind::Primary.span(start..end)),
                );
            }
            Some((source, None)) => {
                group = group.element(annotate_snippets::Origin::path(&*source.path));
            }
            None => {}
        }
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        let report: &[Group<'_>] = &[group];
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(report)
    }
}
