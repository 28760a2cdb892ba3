//! How big a component is, counted before it is compiled.
//!
//! Compiling takes time that grows with what is in a component and cannot be interrupted, so the counts that drive it
//! are bounded first. This reads section headers only; whether the rest is well formed is the compiler's to say.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Core modules.
    pub core_modules: u32,
    /// Components inside the component.
    pub components: u32,
    /// Functions with a body.
    pub functions: u32,
    /// Longest body of a function, in bytes.
    pub largest_function: u32,
}

/// Upper bounds for what a component may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutLimits {
    /// Core modules: bindings generators make up to four.
    pub core_modules: u32,
    /// Inner components: bindings generators make one for each exported interface.
    pub components: u32,
    /// Functions: an interpreter of a scripting language has about 20 000.
    pub functions: u32,
    /// Bytes of one function: register allocation grows faster than its input.
    pub function_bytes: u32,
}

impl Default for LayoutLimits {
    fn default() -> Self {
        Self { core_modules: 32, components: 64, functions: 60_000, function_bytes: 1 << 20 }
    }
}

/// Why a component is not even offered to the compiler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum LayoutError {
    /// A core module or something else.
    #[error("{0}")]
    NotAComponent(Cow<'static, str>),
    /// Cut off, or lengths that do not add up.
    #[error("the component is malformed near byte {offset}")]
    Malformed {
        /// Where.
        offset: usize,
    },
    /// Too much of something.
    #[error("{count} {what}, of {limit} allowed")]
    TooMany {
        /// Of what.
        what: Cow<'static, str>,
        /// How many, or so many at least.
        count: u32,
        /// Of how many.
        limit: u32,
    },
}

/// Counts what a binary component contains.
pub(super) fn measure(binary: &[u8], limits: &LayoutLimits) -> Result<Layout, LayoutError> {
    match binary.get(..8) {
        Some(COMPONENT) => {}
        Some(MODULE) => {
            let hint = "this is a core module: make a component of it (`wasm-tools component new`)";
            return Err(LayoutError::NotAComponent(hint.into()));
        }
        _ => {
            let told = "this is neither a binary component nor component text";
            return Err(LayoutError::NotAComponent(told.into()));
        }
    }
    let mut counted = Layout::default();
    let mut reader = Reader { bytes: binary, offset: 8 };
    reader.component(&mut counted, limits, 0)?;
    Ok(counted)
}

/// Reads forward within one slice; `offset` is where the slice begins in the whole.
struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    fn component(
        &mut self,
        counted: &mut Layout,
        limits: &LayoutLimits,
        depth: u32,
    ) -> Result<(), LayoutError> {
        if depth > MAX_DEPTH {
            return Err(LayoutError::TooMany {
                what: "levels of nesting".into(),
                count: depth,
                limit: MAX_DEPTH,
            });
        }
        while let Some((id, mut section)) = self.section()? {
            match id {
                SECTION_CORE_MODULE => {
                    more(&mut counted.core_modules, 1, "core modules", limits.core_modules)?;
                    section.skip_preamble()?;
                    section.module(counted, limits)?;
                }
                SECTION_COMPONENT => {
                    more(&mut counted.components, 1, "inner components", limits.components)?;
                    section.skip_preamble()?;
                    section.component(counted, limits, depth + 1)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn module(&mut self, counted: &mut Layout, limits: &LayoutLimits) -> Result<(), LayoutError> {
        while let Some((id, mut section)) = self.section()? {
            if id != SECTION_CODE {
                continue;
            }
            let functions = section.number()?;
            more(&mut counted.functions, functions, "functions", limits.functions)?;
            for _ in 0..functions {
                let size = section.number()?;
                if size > limits.function_bytes {
                    let (what, limit) = ("bytes in one function", limits.function_bytes);
                    return Err(LayoutError::TooMany { what: what.into(), count: size, limit });
                }
                counted.largest_function = counted.largest_function.max(size);
                section.take(size)?;
            }
        }
        Ok(())
    }

    fn section(&mut self) -> Result<Option<(u8, Reader<'a>)>, LayoutError> {
        let bytes = self.bytes;
        let Some(rest) = bytes.get(self.offset..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
        let id = *rest.first().ok_or_else(|| self.malformed())?;
        self.offset += 1;
        let size = self.number()?;
        let start = self.offset;
        self.take(size)?;
        let bytes = bytes.get(..self.offset).ok_or_else(|| self.malformed())?;
        Ok(Some((id, Reader { bytes, offset: start })))
    }

    fn skip_preamble(&mut self) -> Result<(), LayoutError> {
        self.take(8)
    }

    fn take(&mut self, count: u32) -> Result<(), LayoutError> {
        let end = usize::try_from(count).ok().and_then(|count| self.offset.checked_add(count));
        match end.filter(|end| *end <= self.bytes.len()) {
            Some(end) => {
                self.offset = end;
                Ok(())
            }
            None => Err(self.malformed()),
        }
    }

    /// Unsigned LEB128 of at most 32 bits.
    fn number(&mut self) -> Result<u32, LayoutError> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = *self.bytes.get(self.offset).ok_or_else(|| self.malformed())?;
            self.offset += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| self.malformed());
            }
        }
        Err(self.malformed())
    }

    fn malformed(&self) -> LayoutError {
        LayoutError::Malformed { offset: self.offset }
    }
}

fn more(counted: &mut u32, by: u32, what: &'static str, limit: u32) -> Result<(), LayoutError> {
    *counted = counted.saturating_add(by);
    if *counted > limit {
        return Err(LayoutError::TooMany { what: what.into(), count: *counted, limit });
    }
    Ok(())
}

/// Preambles of the binary format: magic, version, layer.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const MODULE: &[u8] = b"\0asm\x01\0\0\0";
const SECTION_CORE_MODULE: u8 = 1;
const SECTION_COMPONENT: u8 = 4;
const SECTION_CODE: u8 = 10;

/// Inner components within inner components: generated ones nest once.
const MAX_DEPTH: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(text: &str, limits: &LayoutLimits) -> Result<Layout, LayoutError> {
        measure(&wat::parse_str(text).unwrap(), limits)
    }

    #[test]
    fn f08_what_drives_the_compiler_is_counted_first() {
        let text = "(component
            (core module (func) (func (drop (i32.const 1))))
            (component (core module (func))))";
        let counted = measured(text, &LayoutLimits::default()).unwrap();
        assert_eq!((counted.core_modules, counted.components, counted.functions), (2, 1, 3));
        assert_eq!(counted.largest_function, 5);

        let tight = |f: fn(&mut LayoutLimits)| {
            let mut limits = LayoutLimits::default();
            f(&mut limits);
            measured(text, &limits).unwrap_err().to_string()
        };
        assert_eq!(tight(|l| l.core_modules = 1), "2 core modules, of 1 allowed");
        assert_eq!(tight(|l| l.components = 0), "1 inner components, of 0 allowed");
        assert_eq!(tight(|l| l.functions = 2), "3 functions, of 2 allowed");
        assert_eq!(tight(|l| l.function_bytes = 4), "5 bytes in one function, of 4 allowed");
    }

    #[test]
    fn f08_deep_nesting_is_refused() {
        let text = format!("{}{}", "(component ".repeat(20), ")".repeat(20));
        let error = measured(&text, &LayoutLimits::default()).unwrap_err();
        assert_eq!(error.to_string(), "9 levels of nesting, of 8 allowed");
    }

    #[test]
    fn f08_cut_off_and_foreign_bytes_are_refused() {
        let whole = wat::parse_str("(component (core module (func (drop (i32.const 1)))))").unwrap();
        for cut in 0..whole.len() {
            let short = whole.get(..cut).unwrap();
            // A cut between sections leaves a shorter whole.
            if measure(short, &LayoutLimits::default()).is_ok() {
                assert!(cut == 8 || cut == whole.len(), "{cut}");
            }
        }
        let module = wat::parse_str("(module)").unwrap();
        assert!(measure(&module, &LayoutLimits::default()).unwrap_err().to_string().contains("core module"));
        assert!(measure(b"\x7fELF", &LayoutLimits::default()).is_err());
        let endless = [COMPONENT, &[1, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
        assert!(measure(&endless, &LayoutLimits::default()).is_err());
    }
}
