//! What checking a log found: for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::{
    id::TenantName,
    record::{chain::Hash, show::escape_controls},
};

/// What was found. Its `Display` is for people, its serialisation for programs.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// No fault in any chain.
    pub sound: bool,
    /// Each chain.
    pub chains: Vec<ChainReport>,
}

/// What was found in one chain.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ChainReport {
    /// `invocations`, `refused`, or the tenant of an extract.
    pub chain: String,
    /// Lines read.
    pub records: u64,
    /// Number of the first line, if there is one.
    pub first_seq: Option<u64>,
    /// Number of the last line.
    pub last_seq: Option<u64>,
    /// Hash of the last line.
    pub last_hash: Option<Hash>,
    /// What is before `first_seq` was removed behind a tombstone, or (of an extract) is not part of it.
    pub earlier_removed: bool,
    /// Torn lines that starts moved aside.
    pub recovered: u64,
    /// The last record that a checkpoint vouches for; `None`: tail not anchored.
    pub anchored_seq: Option<u64>,
    /// Checkpoints signed with another key, which say nothing here.
    pub other_checkpoints: u64,
    /// How many faults there are.
    pub fault_count: u64,
    /// The first of them.
    pub faults: Vec<Fault>,
}

/// Something that an honest log does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file.
    pub file: String,
    /// The line in it, from 1; 0 for the file as a whole.
    pub line: u64,
    /// What is wrong.
    #[serde(flatten)]
    pub kind: FaultKind,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum FaultKind {
    /// Not a line of a log.
    #[error("the line cannot be read: it was edited or inserted")]
    Unreadable,
    /// The line's bytes do not have the hash that it states.
    #[error("record {seq} was edited: its bytes do not have its hash")]
    Edited {
        /// Its number.
        seq: u64,
    },
    /// Numbers jump.
    #[error("records {from} to {to} are missing here: they were removed or moved")]
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A number comes again, or late.
    #[error("record {seq} is out of place: it was inserted or moved")]
    OutOfPlace {
        /// Its number.
        seq: u64,
    },
    /// The number fits, the hash of the line before does not.
    #[error("record {seq} does not follow the line before it: one of them was replaced")]
    DoesNotFollow {
        /// Its number.
        seq: u64,
    },
    /// The tenant's own chain breaks.
    #[error("record {seq} does not follow the record before it of `{tenant}`")]
    TenantBroken {
        /// Its number.
        seq: u64,
        /// Whose chain.
        tenant: TenantName,
    },
    /// A record of somebody else in an extract.
    #[error("record {seq} is not one of this tenant's")]
    Foreign {
        /// Its number.
        seq: u64,
    },
    /// A segment's opening line states other heads than its predecessors end with.
    #[error("the segment that begins with record {seq} states other tenants' heads than the lines before it")]
    HeadsDiffer {
        /// Its number.
        seq: u64,
    },
    /// A segment that does not begin as its name says.
    #[error("the segment does not begin with the opening line that its name states")]
    Misnamed,
    /// The log begins late, and no tombstone says why.
    #[error("the records before {seq} are gone without a tombstone")]
    StartRemoved {
        /// Where it begins.
        seq: u64,
    },
    /// The last line has no end.
    #[error("the last line is torn: a crash left it, and the next start moves it aside; or it was edited")]
    Torn,
    /// A checkpoint knows more records than the log has.
    #[error(
        "the log ends before record {seq}, which a checkpoint of {time} vouches for: its tail was removed"
    )]
    TailRemoved {
        /// The checkpoint's number.
        seq: u64,
        /// When it was signed.
        time: String,
    },
    /// A checkpoint knows another line of this number.
    #[error("record {seq} is not the one that a checkpoint of {time} vouches for: the chain was rewritten")]
    Rewritten {
        /// The checkpoint's number.
        seq: u64,
        /// When it was signed.
        time: String,
    },
    /// A line of the file of checkpoints that this key did not sign as it stands.
    #[error("the checkpoint cannot be read, or its signature is wrong")]
    BadCheckpoint,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chain in &self.chains {
            write!(f, "{chain}")?;
        }
        f.write_str(if self.sound { "sound\n" } else { "NOT SOUND\n" })
    }
}

impl fmt::Display for ChainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} records", self.chain, self.records)?;
        if let (Some(first), Some(last)) = (self.first_seq, self.last_seq) {
            write!(f, " ({first} to {last})")?;
        }
        if self.earlier_removed {
            f.write_str(", earlier ones removed")?;
        }
        if self.recovered > 0 {
            write!(f, ", {} torn by a crash and moved aside", self.recovered)?;
        }
        match (self.anchored_seq, self.last_seq) {
            (Some(anchored), Some(last)) if anchored < last => {
                write!(f, ", anchored up to {anchored}; tail not anchored: {} records", last - anchored)?;
            }
            (Some(_), _) => f.write_str(", anchored")?,
            (None, Some(_)) => f.write_str(", tail not anchored")?,
            (None, None) => {}
        }
        if self.other_checkpoints > 0 {
            write!(f, ", {} checkpoints of another key ignored", self.other_checkpoints)?;
        }
        writeln!(f)?;
        for Fault { file, line, kind } in &self.faults {
            let file = escape_controls(file);
            match line {
                0 => writeln!(f, "  {kind}")?,
                _ => writeln!(f, "  {file}:{line}: {kind}")?,
            }
        }
        let unlisted = self.fault_count.saturating_sub(self.faults.len() as u64);
        if unlisted > 0 {
            writeln!(f, "  and {unlisted} more faults")?;
        }
        Ok(())
    }
}
