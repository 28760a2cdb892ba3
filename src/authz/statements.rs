//! A policy file cut into its statements, within bounds, before Cedar sees any of it.
//!
//! Cut here rather than by Cedar, so that one slip spoils one policy and not the report on its neighbours, and so
//! that text from a tenant is bounded (invariant **Bounded**) before a recursive parser meets it. A cut in the wrong
//! place could only yield pieces that Cedar refuses: what is consulted is what Cedar made of each piece.

use std::ops::Range;

/// Largest policy file.
pub(super) const MAX_FILE_BYTES: usize = 256 * 1024;
/// Most policies in one file set: a slice is evaluated whole, at about a microsecond for each.
pub(super) const MAX_POLICIES: usize = 1_000;
/// Longest policy, annotations included.
pub(super) const MAX_POLICY_BYTES: usize = 16 * 1024;
/// Deepest nesting of brackets.
pub(super) const MAX_DEPTH: usize = 24;
/// Most operators, dots and branches in one policy. `a.b.c…` and `1+1+1…` nest without brackets, and Cedar's syntax
/// tree is walked and dropped recursively.
pub(super) const MAX_LINKS: usize = 400;

/// Why a file was not cut.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StatementError {
    #[error("a policy file may have {MAX_FILE_BYTES} bytes")]
    FileTooLarge,
    #[error("a policy may have {MAX_POLICY_BYTES} bytes")]
    PolicyTooLong(Range<usize>),
    #[error("a policy may nest {MAX_DEPTH} brackets")]
    TooDeep(Range<usize>),
    #[error("a policy may have {MAX_LINKS} operators, attribute accesses and branches")]
    TooManyLinks(Range<usize>),
}

impl StatementError {
    /// Where in the file, if at one place.
    pub(super) fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::FileTooLarge => None,
            Self::PolicyTooLong(span) | Self::TooDeep(span) | Self::TooManyLinks(span) => Some(span.clone()),
        }
    }
}

/// The byte ranges of the statements of `text`: from the first byte that is neither space nor comment, through the
/// `;`. What follows the last `;` is a statement too, if anything does: Cedar says what is missing.
pub(super) fn statements(text: &str) -> Result<Vec<Range<usize>>, StatementError> {
    if text.len() > MAX_FILE_BYTES {
        return Err(StatementError::FileTooLarge);
    }
    let mut found = Vec::new();
    let mut open: Option<Open> = None;
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'/' if matches!(bytes.peek(), Some((_, b'/'))) => {
                // Cedar's comments end at a line feed or a carriage return.
                while bytes.next_if(|(_, b)| !matches!(b, b'\n' | b'\r')).is_some() {}
                continue;
            }
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            _ => {}
        }
        let statement = open.get_or_insert(Open { start: at, depth: 0, links: 0 });
        match byte {
            b'"' => {
                while let Some((_, b)) = bytes.next() {
                    match b {
                        b'\\' => _ = bytes.next(),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b'(' | b'[' | b'{' => statement.depth += 1,
            b')' | b']' | b'}' => statement.depth = statement.depth.saturating_sub(1),
            b'.' | b'+' | b'-' | b'*' | b'!' | b'<' | b'>' | b'=' | b'&' | b'|' => statement.links += 1,
            b'a'..=b'z' => {
                let mut end = at + 1;
                while bytes.next_if(|(_, b)| b.is_ascii_alphanumeric() || *b == b'_').is_some() {
                    end += 1;
                }
                if matches!(text.get(at..end), Some("if" | "in" | "has" | "like" | "is" | "when" | "unless"))
                {
                    statement.links += 1;
                }
            }
            _ => {}
        }
        let span = statement.start..bytes.peek().map_or(text.len(), |(next, _)| *next);
        if span.len() > MAX_POLICY_BYTES {
            return Err(StatementError::PolicyTooLong(statement.start..statement.start + 1));
        }
        if statement.depth > MAX_DEPTH {
            return Err(StatementError::TooDeep(at..at + 1));
        }
        if statement.links > MAX_LINKS {
            return Err(StatementError::TooManyLinks(at..at + 1));
        }
        if byte == b';' {
            found.push(span);
            open = None;
        }
    }
    if let Some(Open { start, .. }) = open {
        found.push(start..text.len());
    }
    Ok(found)
}

struct Open {
    start: usize,
    depth: usize,
    links: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        statements(text).unwrap().into_iter().map(|span| &text[span]).collect()
    }

    #[test]
    fn semicolons_in_strings_and_comments_end_nothing() {
        let text = "// a; b\n@id(\"x;\\\";\") permit(principal, /".to_owned()
            + "/ c; d\r action, resource); forbid(a);";
        assert_eq!(cut(&text).len(), 2);
        assert_eq!(cut(&text)[1], "forbid(a);");
        assert!(cut("  // nothing\n").is_empty());
        assert_eq!(cut("permit(principal"), ["permit(principal"]);
    }

    #[test]
    fn depth_length_and_links_are_bounded() {
        let deep = "(".repeat(MAX_DEPTH + 1);
        assert!(matches!(statements(&deep), Err(StatementError::TooDeep(_))));
        let long = format!("\"{}\"", "x".repeat(MAX_POLICY_BYTES));
        assert!(matches!(statements(&long), Err(StatementError::PolicyTooLong(_))));
        let chain = ".a".repeat(MAX_LINKS + 1);
        assert!(matches!(statements(&chain), Err(StatementError::TooManyLinks(_))));
        assert_eq!(statements(&" ".repeat(MAX_FILE_BYTES + 1)), Err(StatementError::FileTooLarge));
    }
}
