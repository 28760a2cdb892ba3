//! What `x-sanitize` does to one string: its form changes, never its meaning.

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use super::html;

/// One operation, by its name in a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    /// White space at both ends goes.
    Trim,
    /// A run of line breaks becomes one space.
    SingleLine,
    /// Tags, comments and scripts go; what is left of `<` and `>` is escaped. See [`html::strip`].
    HtmlStrip,
    /// `&`, `<`, `>` and quotes become character references.
    HtmlEscape,
    /// The string must be an identifier: nothing is changed, since another identifier would be another thing.
    Identifier,
}

impl Op {
    /// All names, for a hint.
    pub(crate) const NAMES: &str = "`trim`, `single-line`, `html-strip`, `html-escape`, `identifier`";

    /// The operation of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "trim" => Self::Trim,
            "single-line" => Self::SingleLine,
            "html-strip" => Self::HtmlStrip,
            "html-escape" => Self::HtmlEscape,
            "identifier" => Self::Identifier,
            _ => return None,
        })
    }

    /// Applies it; `false` if the string cannot be what the operation asks for.
    pub(crate) fn apply(self, text: &mut String) -> bool {
        match self {
            Self::Trim => {
                let trimmed = text.trim();
                if trimmed.len() != text.len() {
                    *text = trimmed.to_owned();
                }
            }
            Self::SingleLine => {
                if text.contains(is_line_break) {
                    *text = single_line(text);
                }
            }
            Self::HtmlStrip => {
                if text.contains(['<', '>']) {
                    *text = html::strip(text);
                }
            }
            Self::HtmlEscape => {
                if text.contains(['&', '<', '>', '"', '\'']) {
                    *text = html::escape(text);
                }
            }
            Self::Identifier => return is_identifier(text),
        }
        true
    }
}

fn is_line_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{2028}' | '\u{2029}')
}

fn single_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut in_break = false;
    for c in text.chars() {
        match (is_line_break(c), in_break) {
            (true, false) => line.push(' '),
            (true, true) => {}
            (false, _) => line.push(c),
        }
        in_break = is_line_break(c);
    }
    line
}

/// Letters, digits, their marks and visible ASCII, none of them a compatibility spelling of another: the identifier
/// class of PRECIS (RFC 8264 §4.2), so that no two identifiers look alike by invisible or full-width characters.
fn is_identifier(text: &str) -> bool {
    let of_class = |c: char| match c.is_ascii() {
        true => c.is_ascii_graphic(),
        false => c.is_alphanumeric() || is_combining_mark(c) && !is_variation_selector(c),
    };
    !text.is_empty() && text.chars().all(of_class) && (text.is_ascii() || text.nfkc().eq(text.chars()))
}

/// Marks that change nothing that can be seen.
fn is_variation_selector(c: char) -> bool {
    matches!(c, '\u{34f}' | '\u{180b}'..='\u{180d}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(op: &str, text: &str) -> Option<String> {
        let mut text = text.to_owned();
        Op::named(op).unwrap().apply(&mut text).then_some(text)
    }

    #[test]
    fn each_operation_does_what_its_name_says() {
        assert_eq!(apply("trim", " \t a b\u{2003}\n").as_deref(), Some("a b"));
        assert_eq!(apply("single-line", "a\r\nb\n\n\u{2028}c\td").as_deref(), Some("a b c\td"));
        assert_eq!(apply("html-strip", "a <b>bold</b> & 1 < 2").as_deref(), Some("a bold & 1 &lt; 2"));
        assert_eq!(
            apply("html-escape", "<a href='x'>&\"").as_deref(),
            Some("&lt;a href=&#39;x&#39;&gt;&amp;&quot;")
        );
    }

    #[test]
    fn d06_an_identifier_has_no_invisible_or_look_alike_spelling() {
        for good in ["a", "O'Brien", "user@example.com", "Ünal", "漢字", "नमस्ते", "x-1_2:3/4"]
        {
            assert_eq!(apply("identifier", good).as_deref(), Some(good));
        }
        for bad in
            ["", "a b", "a\n", "ａｂｃ", "a\u{200b}b", "a\u{ad}b", "ﬁ", "a\u{fe0f}", "\u{feff}a", "😀", "ª"]
        {
            assert_eq!(apply("identifier", bad), None, "{bad:?}");
        }
    }
}
