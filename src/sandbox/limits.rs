//! What one invocation may use up, who said so, and the meter that holds a guest to its memory.

use std::fmt;

use serde::Serialize;
use wasmtime::ResourceLimiter;

use crate::site::{
    manifest::RawLimits,
    units::{Bytes, Span},
};

/// Whose word a limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SetBy {
    /// sandgate.toml, or the built-in ceiling.
    Platform,
    /// `[ceilings]` of tenant.toml.
    Tenant,
    /// `[limits]` of function.toml.
    Function,
}

/// A value and whose word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<T> {
    /// The value that holds.
    pub value: T,
    /// Who set it.
    pub set_by: SetBy,
}

impl<T: Copy + Ord> Limit<T> {
    /// The smallest of the three; among equals the most general, which the author of a function cannot raise.
    fn smallest(platform: T, tenant: Option<T>, function: Option<T>) -> Self {
        let mut limit = Self { value: platform, set_by: SetBy::Platform };
        for (value, set_by) in [(tenant, SetBy::Tenant), (function, SetBy::Function)] {
            if let Some(value) = value.filter(|value| *value < limit.value) {
                limit = Self { value, set_by };
            }
        }
        limit
    }
}

/// The limits of one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Thread CPU time of one invocation.
    pub cpu: Limit<Span>,
    /// Time on the wall of one invocation, waiting for a thread included.
    pub wall: Limit<Span>,
    /// All memories and tables of one invocation together.
    pub memory: Limit<Bytes>,
    /// Body of the reply.
    pub response: Limit<Bytes>,
    /// Invocations of the function in flight at once.
    pub concurrency: Limit<u32>,
}

impl Limits {
    /// The smallest of platform, tenant and function holds; where the platform is silent, its built-in ceiling.
    pub fn resolve(platform: &RawLimits, tenant: &RawLimits, function: &RawLimits) -> Self {
        macro_rules! smallest {
            ($field:ident, $built_in:expr) => {
                Limit::smallest(
                    platform.$field.as_ref().map_or($built_in, |v| *v.get_ref()),
                    tenant.$field.as_ref().map(|v| *v.get_ref()),
                    function.$field.as_ref().map(|v| *v.get_ref()),
                )
            };
        }
        Self {
            cpu: smallest!(cpu, BUILT_IN.cpu.value),
            wall: smallest!(wall, BUILT_IN.wall.value),
            memory: smallest!(memory, BUILT_IN.memory.value),
            response: smallest!(response, BUILT_IN.response.value),
            concurrency: smallest!(concurrency, BUILT_IN.concurrency.value),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        BUILT_IN
    }
}

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitName {
    /// `cpu`.
    Cpu,
    /// `wall`.
    Wall,
    /// `memory`.
    Memory,
    /// `response`.
    Response,
    /// `concurrency`.
    Concurrency,
}

impl LimitName {
    /// As the manifest writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wall => "wall",
            Self::Memory => "memory",
            Self::Response => "response",
            Self::Concurrency => "concurrency",
        }
    }
}

/// A limit's value, in its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum LimitValue {
    /// Of `cpu` and `wall`.
    Time(Span),
    /// Of `memory` and `response`.
    Size(Bytes),
    /// Of `concurrency`.
    Count(u32),
}

/// A limit that an invocation met: for its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LimitHit {
    /// Which.
    pub name: LimitName,
    /// Its value.
    pub value: LimitValue,
    /// Who set it.
    pub set_by: SetBy,
}

impl fmt::Display for LimitHit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.as_str();
        match self.value {
            LimitValue::Time(value) => write!(f, "`{name}` limit of {value}")?,
            LimitValue::Size(value) => write!(f, "`{name}` limit of {value}")?,
            LimitValue::Count(value) => write!(f, "`{name}` limit of {value}")?,
        }
        f.write_str(match self.set_by {
            SetBy::Platform => " (set by the platform)",
            SetBy::Tenant => " (set by the tenant)",
            SetBy::Function => " (set by the function)",
        })
    }
}

impl Limits {
    pub(super) fn hit(&self, name: LimitName) -> LimitHit {
        let (value, set_by) = match name {
            LimitName::Cpu => (LimitValue::Time(self.cpu.value), self.cpu.set_by),
            LimitName::Wall => (LimitValue::Time(self.wall.value), self.wall.set_by),
            LimitName::Memory => (LimitValue::Size(self.memory.value), self.memory.set_by),
            LimitName::Response => (LimitValue::Size(self.response.value), self.response.set_by),
            LimitName::Concurrency => (LimitValue::Count(self.concurrency.value), self.concurrency.set_by),
        };
        LimitHit { name, value, set_by }
    }
}

/// Sums all memories and tables of one store, refuses what exceeds the limit, and remembers the peak.
#[derive(Debug)]
pub(super) struct Meter {
    limit: usize,
    /// Beyond this the call does not belong on an I/O thread: one bulk instruction over the memory cannot be
    /// interrupted (F22).
    inline_limit: Option<usize>,
    used: usize,
    peak: usize,
    /// `used` and `peak` before the last growth that was allowed, should the engine fail to do it.
    before: (usize, usize),
    refused: bool,
}

/// The guest wants more memory than a call on an I/O thread gets.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("more memory than an inline call may touch")]
pub(super) struct TooLargeInline;

impl Meter {
    pub(super) fn new(limit: Bytes, inline: bool) -> Self {
        let limit = usize::try_from(limit.0).unwrap_or(usize::MAX);
        let inline_limit = inline.then_some(INLINE_MEMORY_BYTES);
        Self { limit, inline_limit, used: 0, peak: 0, before: (0, 0), refused: false }
    }

    /// Most that was in use at once, in bytes.
    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    /// Whether the guest asked for more than its limit.
    pub(super) fn refused(&self) -> bool {
        self.refused
    }

    fn grow(&mut self, current: usize, desired: usize) -> wasmtime::Result<bool> {
        let wanted = self.used.saturating_add(desired.saturating_sub(current));
        if wanted > self.limit {
            self.refused = true;
            return Ok(false);
        }
        if self.inline_limit.is_some_and(|inline| wanted > inline) {
            return Err(TooLargeInline.into());
        }
        self.before = (self.used, self.peak);
        self.used = wanted;
        self.peak = self.peak.max(wanted);
        Ok(true)
    }

    fn undo(&mut self) {
        (self.used, self.peak) = self.before;
        self.refused = true;
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // Beyond what the guest itself declared: no limit of ours is met.
            return Ok(false);
        }
        self.grow(current, desired)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(current.saturating_mul(TABLE_ELEMENT_BYTES), desired.saturating_mul(TABLE_ELEMENT_BYTES))
    }

    /// The pool's slot is smaller than the limit: it is the platform's ceiling.
    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    // The per-component caps of the pool are stricter; these hold if a component could create more at run time.
    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        16
    }
}

/// One pointer: what a table costs for each element.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// Filling or copying this much takes 1 to 3 ms, page faults included: about one tick.
const INLINE_MEMORY_BYTES: usize = 8 << 20;

/// What the platform allows where sandgate.toml says nothing: the values of the contract's sample manifest, which a
/// function that fits in an interactive request does not meet.
const BUILT_IN: Limits = {
    const fn platform<T: Copy>(value: T) -> Limit<T> {
        Limit { value, set_by: SetBy::Platform }
    }
    Limits {
        cpu: platform(Span(std::time::Duration::from_millis(50))),
        wall: platform(Span(std::time::Duration::from_secs(2))),
        memory: platform(Bytes(64 << 20)),
        response: platform(Bytes(1 << 20)),
        concurrency: platform(64),
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> RawLimits {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_smallest_limit_holds_and_says_whose_it_is() {
        let limits = Limits::resolve(
            &raw("cpu = '100ms'\nmemory = '64MiB'"),
            &raw("cpu = '20ms'\nmemory = '128MiB'\nconcurrency = 3"),
            &raw("cpu = '30ms'\nmemory = '16MiB'\nresponse = '1GiB'"),
        );
        let told: Vec<String> =
            [LimitName::Cpu, LimitName::Wall, LimitName::Memory, LimitName::Response, LimitName::Concurrency]
                .map(|name| limits.hit(name).to_string())
                .into();
        assert_eq!(
            told,
            [
                "`cpu` limit of 20ms (set by the tenant)",
                "`wall` limit of 2s (set by the platform)",
                "`memory` limit of 16MiB (set by the function)",
                "`response` limit of 1MiB (set by the platform)",
                "`concurrency` limit of 3 (set by the tenant)",
            ]
        );
    }

    #[test]
    fn f24_memories_and_tables_count_together() {
        let mut meter = Meter::new(Bytes(1000), false);
        assert!(meter.memory_growing(0, 400, None).unwrap());
        assert!(meter.memory_growing(0, 400, None).unwrap());
        assert!(meter.table_growing(0, 10, None).unwrap());
        assert_eq!(meter.peak(), 880);
        assert!(!meter.refused());
        assert!(!meter.table_growing(10, 100, None).unwrap());
        assert!(meter.refused());
        assert!(!meter.memory_growing(400, usize::MAX, None).unwrap());
        assert_eq!(meter.peak(), 880);
    }
}
