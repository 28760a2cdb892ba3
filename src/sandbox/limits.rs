//! What one invocation may use up, who said so, and the meter that holds a guest to its memory.

use std::fmt;

use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

use super::memory::Part;
pub use crate::site::limits::{Limit, Limits, SetBy};
use crate::site::units::{Bytes, Span};

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// Elements of one table: the size of the pool's slots, the same for every function.
    #[serde(rename = "table-elements")]
    TableElements,
}

impl LimitName {
    /// Every limit, at the place that it has as a number.
    pub(super) const ALL: [Self; 6] =
        [Self::Cpu, Self::Wall, Self::Memory, Self::Response, Self::Concurrency, Self::TableElements];

    /// As the manifest writes it, where it may.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wall => "wall",
            Self::Memory => "memory",
            Self::Response => "response",
            Self::Concurrency => "concurrency",
            Self::TableElements => "table-elements",
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
    /// Of `concurrency` and of table elements.
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
            LimitName::TableElements => (LimitValue::Count(TABLE_ELEMENTS), SetBy::Platform),
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
    /// Of the memory of all guests.
    part: Part,
    refused: bool,
    full_table: bool,
    crowded: bool,
}

/// The guest wants more memory than a call on an I/O thread gets.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("more memory than an inline call may touch")]
pub(super) struct TooLargeInline;

impl Meter {
    pub(super) fn new(limit: Bytes, inline: bool, part: Part) -> Self {
        let limit = usize::try_from(limit.0).unwrap_or(usize::MAX);
        let inline_limit = inline.then_some(INLINE_MEMORY_BYTES);
        Self {
            limit,
            inline_limit,
            used: 0,
            peak: 0,
            before: (0, 0),
            part,
            refused: false,
            full_table: false,
            crowded: false,
        }
    }

    /// Whether the guest was refused what is within its limit, since others have it.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded
    }

    /// From now on the limit alone holds.
    #[cfg(feature = "portable")]
    pub(super) fn leave_io_thread(&mut self) {
        self.inline_limit = None;
    }

    /// Most that was in use at once, in bytes.
    pub(super) fn peak(&self) -> usize {
        self.peak
    }

    /// The limits that the guest asked to exceed.
    pub(super) fn met(&self) -> impl Iterator<Item = LimitName> {
        let memory = self.refused.then_some(LimitName::Memory);
        memory.into_iter().chain(self.full_table.then_some(LimitName::TableElements))
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
        if !self.part.take(wanted.saturating_sub(self.used)) {
            self.crowded = true;
            return Ok(false);
        }
        self.before = (self.used, self.peak);
        self.used = wanted;
        self.peak = self.peak.max(wanted);
        Ok(true)
    }

    fn undo(&mut self) {
        self.part.give(self.used.saturating_sub(self.before.0));
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
            // The engine gives what the guest declared or the pool's slot, whichever is less.
            self.full_table |= desired > TABLE_ELEMENTS as usize;
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

/// Most elements of one table: 160 KB. A table holds the functions that are called by pointer, of which large programs
/// have some thousands.
pub const TABLE_ELEMENTS: u32 = 20_000;

/// One pointer: what a table costs for each element.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

/// Filling or copying this much takes 1 to 3 ms, page faults included: about one tick.
const INLINE_MEMORY_BYTES: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f24_memories_and_tables_count_together() {
        let mut meter = Meter::new(Bytes(1000), false, Part::default());
        assert!(meter.memory_growing(0, 400, None).unwrap());
        assert!(meter.memory_growing(0, 400, None).unwrap());
        assert!(meter.table_growing(0, 10, None).unwrap());
        assert_eq!(meter.peak(), 880);
        assert_eq!(meter.met().count(), 0);
        assert!(!meter.table_growing(10, 100, None).unwrap());
        assert_eq!(meter.met().collect::<Vec<_>>(), [LimitName::Memory]);
        assert!(!meter.memory_growing(400, usize::MAX, None).unwrap());
        assert_eq!(meter.peak(), 880);
    }

    #[test]
    fn f24_a_tables_slot_is_told_from_what_the_guest_declared() {
        let slot = TABLE_ELEMENTS as usize;
        let mut meter = Meter::new(Bytes(1 << 30), false, Part::default());
        assert!(!meter.table_growing(0, 11, Some(10)).unwrap());
        assert_eq!(meter.met().count(), 0, "its own bound");
        assert!(meter.table_growing(0, slot, Some(slot)).unwrap());
        assert!(!meter.table_growing(slot, slot + 1, Some(slot)).unwrap());
        assert_eq!(meter.met().collect::<Vec<_>>(), [LimitName::TableElements]);
    }
}
