//! Text rules: which characters no string, name, parameter or path may have, and normal form C.
//!
//! Refused are NUL and the other C0 controls but tab, LF and CR; DEL and C1 (RFC 9839 §2.2 groups them); and the
//! bidirectional embeddings, overrides and isolates, which let a text look like another (CVE-2021-42574).

use std::borrow::Cow;

use unicode_normalization::{UnicodeNormalization, is_nfc};

/// Whether a character is refused everywhere.
pub fn is_refused(c: char) -> bool {
    match c {
        '\t' | '\n' | '\r' => false,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' => true,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => false,
    }
}

/// The rule of [`is_refused`] as a regular expression, for documents that other tools read.
pub const TEXT_PATTERN: &str =
    r"^[^\u0000-\u0008\u000B\u000C\u000E-\u001F\u007F-\u009F\u202A-\u202E\u2066-\u2069]*$";

/// Offset of the first refused character.
pub fn refused_at(text: &str) -> Option<usize> {
    // Most texts are ASCII: one pass over bytes then says all, and the compiler makes it wide.
    if text.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return None;
    }
    text.char_indices().find(|(_, c)| is_refused(*c)).map(|(at, _)| at)
}

/// The text in normal form C (UAX #15), borrowed if it already is.
pub fn nfc(text: &str) -> Cow<'_, str> {
    if is_surely_nfc(text) || is_nfc(text) { Cow::Borrowed(text) } else { Cow::Owned(text.nfc().collect()) }
}

/// Whether every character is of a block whose members neither combine nor change under normal form C: Latin up to the
/// first combining mark, unified ideographs, Hangul syllables. The full check costs a table look-up a character.
fn is_surely_nfc(text: &str) -> bool {
    text.is_ascii()
        || text.chars().all(|c| {
            c < '\u{300}' || ('\u{4e00}'..='\u{9fff}').contains(&c) || ('\u{ac00}'..='\u{d7a3}').contains(&c)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn d06_the_pattern_that_others_read_says_the_same() {
        let pattern = json_schema(TEXT_PATTERN);
        for c in ('\0'..='\u{3000}').chain(['\u{fffd}', '\u{10ffff}']) {
            let text = format!("a{c}b");
            assert_eq!(pattern.is_valid(&text.clone().into()), refused_at(&text).is_none(), "{c:?}");
        }
    }

    fn json_schema(pattern: &str) -> jsonschema::Validator {
        jsonschema::validator_for(&serde_json::json!({ "pattern": pattern })).unwrap()
    }

    #[test]
    fn d06_controls_and_bidirectional_controls_are_refused() {
        for c in [
            '\0', '\x01', '\x08', '\x0b', '\x1f', '\x7f', '\u{80}', '\u{85}', '\u{9f}', '\u{202a}',
            '\u{202e}',
        ] {
            assert_eq!(refused_at(&format!("ab{c}")), Some(2), "{c:?}");
        }
        for c in ['\u{2066}', '\u{2069}'] {
            assert_eq!(refused_at(&format!("é{c}")), Some(2), "{c:?}");
        }
        for c in ['\t', '\n', '\r', ' ', '~', '\u{a0}', '\u{2029}', '\u{2065}', '\u{206a}', '😀', 'ع'] {
            assert_eq!(refused_at(&c.to_string()), None, "{c:?}");
        }
    }

    #[test]
    fn d07_decomposed_text_becomes_composed() {
        assert_eq!(nfc("e\u{301}"), "é");
        assert_eq!(nfc("\u{212b}"), "Å");
        assert_eq!(nfc("\u{1100}\u{1161}"), "가");
        assert_eq!(nfc("가\u{11a8}"), "각");
        assert!(matches!(nfc("Grüße 漢字 한글"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn d07_normal_form_is_idempotent(text in "\\PC*") {
            let once = nfc(&text).into_owned();
            prop_assert_eq!(nfc(&once), once.as_str());
            prop_assert_eq!(once, text.nfc().collect::<String>());
        }

        #[test]
        fn d06_normal_form_makes_no_refused_character(text in "\\PC*") {
            prop_assume!(refused_at(&text).is_none());
            prop_assert_eq!(refused_at(&nfc(&text)), None);
        }
    }
}
