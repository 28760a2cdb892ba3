//! HTML out of text: stripped or escaped, in one pass and linear time.
//!
//! A tree-building sanitizer would do more than is asked, and at a cost the caller chooses: a few thousand unclosed
//! formatting elements are rebuilt in every block that follows (HTML §13.2.4.3), so that 64 KiB become millions of
//! nodes. Here the tokenizer's rules say what is a tag; whatever they leave of `<` and `>` is escaped, so that the
//! result has no tag for any reader.

/// The text without tags, comments, declarations, and without the content of `script` and `style`. Character references
/// stay as they are, and `<` and `>` that began or ended no tag become references.
pub fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '>']) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let inside = from.get(1..).unwrap_or_default();
        rest = if from.starts_with('>') {
            out.push_str("&gt;");
            inside
        } else {
            match markup(inside) {
                Some(after) => after,
                None => {
                    out.push_str("&lt;");
                    inside
                }
            }
        };
    }
    out.push_str(rest);
    out
}

/// The text with `&`, `<`, `>`, `"` and `'` as character references.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// What follows the markup whose `<` was just read; none if it is no markup. Unfinished markup takes the rest.
fn markup(inside: &str) -> Option<&str> {
    let mut chars = inside.chars();
    match chars.next()? {
        '!' => match inside.strip_prefix("!--") {
            // `<!-->` and `<!--->` are whole comments (HTML §13.2.5.43).
            Some(comment) => Some(match comment.strip_prefix('>').or_else(|| comment.strip_prefix("->")) {
                Some(after) => after,
                None => after_angle(comment, |before| before.ends_with("--") || before.ends_with("--!")),
            }),
            None => Some(after_angle(inside, |_| true)),
        },
        '?' => Some(after_angle(inside, |_| true)),
        '/' => match chars.next() {
            Some(c) if c.is_ascii_alphabetic() => Some(after_tag(chars.as_str())),
            Some('>') => Some(chars.as_str()),
            Some(_) => Some(after_angle(inside, |_| true)),
            None => None,
        },
        c if c.is_ascii_alphabetic() => {
            let after = after_tag(inside);
            let name_ends = |c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>');
            let name = inside.split(name_ends).next().unwrap_or_default();
            let raw = ["script", "style"].into_iter().find(|raw| name.eq_ignore_ascii_case(raw));
            Some(match raw {
                Some(raw) => after_raw(after, raw),
                None => after,
            })
        }
        _ => None,
    }
}

/// What follows the first `>` before which stands what is asked for.
fn after_angle(text: &str, ends: impl Fn(&str) -> bool) -> &str {
    let end = text.match_indices('>').find(|(at, _)| text.get(..*at).is_some_and(&ends));
    end.and_then(|(at, _)| text.get(at + 1..)).unwrap_or_default()
}

/// What follows a tag, from somewhere in its name: a `>` inside a quoted attribute value does not end it.
fn after_tag(text: &str) -> &str {
    enum State {
        Name,
        Equals,
        Value,
        Quoted(char),
    }
    let mut state = State::Name;
    for (at, c) in text.char_indices() {
        state = match (state, c) {
            (State::Quoted(quote), c) if c == quote => State::Name,
            (State::Quoted(quote), _) => State::Quoted(quote),
            (_, '>') => return text.get(at + 1..).unwrap_or_default(),
            (State::Equals, '"' | '\'') => State::Quoted(c),
            (State::Equals, c) if c.is_ascii_whitespace() => State::Equals,
            (State::Equals, _) => State::Value,
            (State::Value, c) if !c.is_ascii_whitespace() => State::Value,
            (_, '=') => State::Equals,
            _ => State::Name,
        };
    }
    ""
}

/// What follows the end tag of a raw text element.
fn after_raw<'t>(text: &'t str, name: &str) -> &'t str {
    let mut rest = text;
    while let Some(at) = rest.find("</") {
        let inside = rest.get(at + 2..).unwrap_or_default();
        let named = inside.get(..name.len()).is_some_and(|n| n.eq_ignore_ascii_case(name));
        let after = inside.get(name.len()..).unwrap_or_default();
        if named && after.starts_with(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>')) {
            return after_tag(after);
        }
        rest = inside;
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn markup_goes_and_text_stays() {
        for (text, stripped) in [
            ("plain", "plain"),
            ("<p>Hello <b class=\"x>y\">you</b></p>", "Hello you"),
            ("a<!-- > b -->c<!-->d", "acd"),
            ("<script>alert('</scrip>')</script >x", "x"),
            ("<STYLE>a{}</style>x", "x"),
            ("<scripty>x</scripty>", "x"),
            ("1 < 2 > 0 <3", "1 &lt; 2 &gt; 0 &lt;3"),
            ("a &lt;b&gt;", "a &lt;b&gt;"),
            ("<<b>script>x", "&lt;script&gt;x"),
            ("<scr<script>ipt>alert(1)</script>", "ipt&gt;alert(1)"),
            ("x<img src=x onerror=alert(1)", "x"),
            ("x<?php echo 1 ?>y<!DOCTYPE html>z</>w</ a>v", "xyzwv"),
            ("<", "&lt;"),
            ("</", "&lt;/"),
            ("<a = 'x'>y' href=''>z", "y' href=''&gt;z"),
        ] {
            assert_eq!(strip(text), stripped, "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_stripped_has_a_tag_and_stripping_twice_is_stripping_once(text in "[<>/!a-c&;='\" \\-é]{0,60}") {
            let once = strip(&text);
            prop_assert!(!once.contains(['<', '>']));
            prop_assert_eq!(strip(&once), once.as_str());
        }
    }
}
