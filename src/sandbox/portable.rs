//! The portable world, `wasi:http/proxy` 0.2: components made for other hosts, as they are.
//!
//! What such a component finds here without asking is the *base* (design.md §8), and nothing in it leads anywhere: no
//! arguments, no variables, no file, closed standard streams, a clock that begins at zero, numbers that are not secret. What is
//! beyond the base needs a capability, and an import of it is refused at admission, by name and with what to do. A module apart
//! from the narrow world, which shares neither its linker nor its store; the feature `portable` compiles it out.

#[cfg(feature = "portable")]
mod base;
#[cfg(feature = "portable")]
mod denied;
#[cfg(feature = "portable")]
mod invoke;
#[cfg(feature = "portable")]
mod message;

#[cfg(all(test, feature = "portable"))]
mod tests;

use std::fmt;

use serde::Serialize;

use super::admission::printable;

#[cfg(feature = "portable")]
pub(super) use self::{
    base::{Guests, Pre, World},
    invoke::{Means, invoke},
    message::{Request, request},
};

/// The export that makes a component a function of this world, whichever patch of 0.2 follows.
const HANDLER: &str = "wasi:http/incoming-handler@0.2.";

/// The same in `wasi:http` 0.3, whose calls are asynchronous in the engine.
const HANDLER_OF_3: &[u8] = b"wasi:http/handler@0.3.";

/// Whether the world is compiled in.
pub(super) const BUILT: bool = cfg!(feature = "portable");

/// The handler, as people are told of it.
pub(super) const TOLD: &str = "wasi:http/incoming-handler@0.2";

/// Whether such an export makes a component portable.
pub(super) fn is_handler(export: &str) -> bool {
    export.strip_prefix(HANDLER).is_some_and(is_patch)
}

/// Whether bytes that the engine refused are made for `wasi:http` 0.3: its asynchronous types are off, so the engine's own words
/// would be about an encoding.
pub(super) fn is_of_3(component: &[u8]) -> bool {
    component.windows(HANDLER_OF_3.len()).any(|window| window == HANDLER_OF_3)
}

/// Why the portable world is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Off {
    /// By the operator.
    #[error("which this site does not serve: `[sandbox] portable = false` in `sandgate.toml`")]
    Site,
    /// By whoever built the program.
    #[error("which this program was built without: build it with the feature `portable`")]
    Build,
}

/// Why an import is not linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Withheld {
    /// `wasi:http/outgoing-handler`.
    OutgoingHttp,
    /// WASI, but not 0.2.
    Version,
    /// Anything else.
    Unknown,
}

/// Whether the world is served, where the operator wants it or not.
pub(super) fn served(wanted: bool) -> Result<(), Off> {
    match (BUILT, wanted) {
        (false, _) => Err(Off::Build),
        (true, false) => Err(Off::Site),
        (true, true) => Ok(()),
    }
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutgoingHttp => "sending requests",
            Self::Version => "WASI, but not 0.2",
            Self::Unknown => "not of the base",
        })
    }
}

/// Imports that are not linked, and why. Not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(Vec<(String, Withheld)>);

impl Missing {
    /// What of these is not linked, if anything.
    pub(super) fn of<'a>(imports: impl Iterator<Item = &'a str>) -> Option<Self> {
        let missing = imports.filter_map(|import| Some((printable(import), withheld(import)?)));
        let missing: Vec<_> = missing.collect();
        (!missing.is_empty()).then_some(Self(missing))
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (import, why)) in self.0.iter().take(MAX_TOLD).enumerate() {
            write!(f, "{}`{import}` ({why})", if index == 0 { "" } else { ", " })?;
        }
        if self.0.len() > MAX_TOLD {
            write!(f, " and {} more", self.0.len() - MAX_TOLD)?;
        }
        if self.0.iter().any(|(_, why)| *why != Withheld::OutgoingHttp) {
            f.write_str("; of `wasi:http/proxy` 0.2 a component gets here what README lists")?;
        }
        if self.0.iter().any(|(_, why)| *why == Withheld::OutgoingHttp) {
            f.write_str(
                "; that takes a capability, and none can be declared yet: a program that sends none is built without, by \
                 componentize-js with `disableFeatures: ['http']`, by componentize-py for a world that has only \
                 `wasi:http/types` and `wasi:http/incoming-handler`",
            )?;
        }
        Ok(())
    }
}

const MAX_TOLD: usize = 8;

/// Why an import is not linked; none if it is.
pub(super) fn withheld(import: &str) -> Option<Withheld> {
    let (interface, version) = import.split_once('@').unwrap_or((import, ""));
    let Some(name) = interface.strip_prefix("wasi:") else { return Some(Withheld::Unknown) };
    if !version.strip_prefix("0.2.").is_some_and(is_patch) {
        return Some(Withheld::Version);
    }
    match name {
        name if BASE.contains(&name) || DENIED.contains(&name) => None,
        "http/outgoing-handler" => Some(Withheld::OutgoingHttp),
        _ => Some(Withheld::Unknown),
    }
}

/// Whether an import is linked to a denial.
pub(super) fn is_denied(import: &str) -> bool {
    let name = import.strip_prefix("wasi:").and_then(|name| name.split('@').next());
    withheld(import).is_none() && name.is_some_and(|name| DENIED.contains(&name))
}

fn is_patch(text: &str) -> bool {
    !text.is_empty() && text.len() < 4 && text.bytes().all(|b| b.is_ascii_digit())
}

/// Interfaces that need no declaration.
const BASE: [&str; 19] = [
    "cli/environment",
    "cli/exit",
    "cli/stderr",
    "cli/stdin",
    "cli/stdout",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stderr",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "clocks/monotonic-clock",
    "filesystem/preopens",
    "filesystem/types",
    "http/types",
    "io/error",
    "io/poll",
    "io/streams",
    "random/insecure",
    "random/insecure-seed",
];

/// Interfaces that take a capability, and that the runtimes of Python and JavaScript cannot be built without: a component may
/// import them, and whatever it calls of them is denied.
const DENIED: [&str; 9] = [
    "clocks/wall-clock",
    "random/random",
    "sockets/instance-network",
    "sockets/ip-name-lookup",
    "sockets/network",
    "sockets/tcp",
    "sockets/tcp-create-socket",
    "sockets/udp",
    "sockets/udp-create-socket",
];

#[cfg(test)]
mod of_names {
    use super::*;

    #[test]
    fn f06_the_base_is_what_design_says_and_no_more() {
        for interface in BASE {
            for version in ["0.2.0", "0.2.3", "0.2.12", "0.2.999"] {
                let import = format!("wasi:{interface}@{version}");
                assert!(withheld(&import).is_none() && !is_denied(&import), "{import}");
            }
        }
        for interface in DENIED {
            let import = format!("wasi:{interface}@0.2.4");
            assert!(withheld(&import).is_none() && is_denied(&import), "{import}");
            assert!(!is_denied(&format!("wasi:{interface}@0.3.0")) && !is_denied(interface));
        }
        for (import, why) in [
            ("wasi:http/outgoing-handler@0.2.0", Withheld::OutgoingHttp),
            ("wasi:sockets/raw@0.2.4", Withheld::Unknown),
            ("wasi:random/random@0.3.0", Withheld::Version),
            ("wasi:io/streams@0.3.0", Withheld::Version),
            ("wasi:io/streams@0.2.", Withheld::Version),
            ("wasi:io/streams@0.2.0-rc-2023-11-10", Withheld::Version),
            ("wasi:io/streams", Withheld::Version),
            ("wasi:keyvalue/store@0.2.0", Withheld::Unknown),
            ("wasi:cli/run@0.2.0", Withheld::Unknown),
            ("sandgate:kv/store@0.1.0", Withheld::Unknown),
            ("host", Withheld::Unknown),
        ] {
            assert_eq!(withheld(import), Some(why), "{import}");
        }
    }

    #[test]
    fn any_patch_of_0_2_is_the_portable_world() {
        for export in ["wasi:http/incoming-handler@0.2.0", "wasi:http/incoming-handler@0.2.12"] {
            assert!(is_handler(export), "{export}");
        }
        for export in
            ["wasi:http/incoming-handler@0.3.0", "wasi:http/incoming-handler", "wasi:http/handler@0.3.0"]
        {
            assert!(!is_handler(export), "{export}");
        }
        assert!(is_of_3(b"\0asm wasi:http/handler@0.3.0 ...") && !is_of_3(b"wasi:http/handler@0.2.0"));
    }
}
