//! Where in a JSON text a JSON pointer leads, so that a fault of a schema is shown under its source.

use std::ops::Range;

/// Bytes of the member name and value, or the value alone, that a pointer leads to in a text that is known to be JSON;
/// none where it leads nowhere.
pub(crate) fn locate(json: &str, pointer: &str) -> Option<Range<usize>> {
    let mut scan = Scan { bytes: json.as_bytes(), at: 0 };
    scan.space();
    let mut start = scan.at;
    for segment in pointer.split('/').skip(1) {
        let name = segment.replace("~1", "/").replace("~0", "~");
        start = match scan.peek()? {
            b'{' => scan.enter_member(json, &name)?,
            b'[' => scan.enter_item(name.parse().ok()?)?,
            _ => return None,
        };
    }
    scan.skip()?;
    Some(start..scan.at)
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn past(&mut self, byte: u8) -> Option<()> {
        self.space();
        (self.peek()? == byte).then(|| self.at += 1)?;
        self.space();
        Some(())
    }

    /// Stands at the value of that member afterwards; gives where its name begins.
    fn enter_member(&mut self, json: &str, name: &str) -> Option<usize> {
        self.past(b'{')?;
        loop {
            let start = self.at;
            self.string()?;
            let found: String = serde_json::from_str(json.get(start..self.at)?).ok()?;
            self.past(b':')?;
            if found == name {
                return Some(start);
            }
            self.skip()?;
            self.past(b',')?;
        }
    }

    fn enter_item(&mut self, index: usize) -> Option<usize> {
        self.past(b'[')?;
        for _ in 0..index {
            self.skip()?;
            self.past(b',')?;
        }
        Some(self.at)
    }

    fn string(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(())
    }

    /// Past the value here: brackets are counted, so the stack stays as it is.
    fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => self.string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                b',' | b':' => self.at += 1,
                b if b.is_ascii_whitespace() => self.at += 1,
                _ => {
                    while self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
                        self.at += 1;
                    }
                }
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_leads_to_its_bytes() {
        let json = r#" {"a": [1, {"b/c": "x\"]"}, -2.5e3], "d": {}, "é": null} "#;
        for (pointer, text) in [
            ("", json.trim()),
            ("/a/0", "1"),
            ("/a/1/b~1c", r#""b/c": "x\"]""#),
            ("/a/2", "-2.5e3"),
            ("/d", r#""d": {}"#),
            ("/é", r#""é": null"#),
        ] {
            assert_eq!(locate(json, pointer).and_then(|r| json.get(r)), Some(text), "{pointer}");
        }
        for pointer in ["/x", "/a/3", "/a/b", "/d/x", "/a/0/0"] {
            assert_eq!(locate(json, pointer), None, "{pointer}");
        }
    }
}
