//! `sandgate.toml`: what the operator may set, each with a default that is safe, and the reason beside it.
//!
//! A key's comment here is also what `check --print-config` prints above it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use validator::Validate;

use super::{
    network::Network,
    origin::Origin,
    units::{Bytes, Span},
};

/// Writes a section once, as struct, default, reason and range.
macro_rules! section {
    ($(#[doc = $about:literal])* $name:ident {
        $($(#[doc = $doc:literal])* $(#[validate($($rule:tt)*)])? $field:ident: $type:ty = $default:expr;)*
    }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct $name {
            $($(#[doc = $doc])* $(#[validate($($rule)*)])? pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            fn print(&self, section: &str, to: &mut String) {
                to.push_str("\n");
                $(comment($about, to);)*
                to.push_str(&format!("[{section}]\n"));
                $(
                    $(comment($doc, to);)*
                    entry(stringify!($field), toml::Value::try_from(&self.$field).ok(), to);
                )*
            }
        }
    };
}

section! {
    /// Listeners and connections. A change holds for connections that are opened from then on.
    Server {
        /// The data plane, settled at start. Loopback: nothing outside is served before somebody asks for it.
        listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8443));
        /// Health and metrics, plain HTTP, settled at start. They tell who is served here, so they stay on loopback too.
        ops_listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 9443));
        /// Where callers find the data plane, such as `https://gate.example`: no Host header is believed about that. DPoP
        /// proofs must name it, so `serve` refuses issuers of `binding = "dpop"` without it; `dev` takes `https://localhost`
        /// and its port.
        origin: Option<Origin> = None;
        /// Connections open at once, 1 to 1000000; each may cost some 100 KiB. More wait in the kernel's queue.
        #[validate(range(min = 1, max = 1_000_000))]
        max_connections: u32 = 4096;
        /// Connections of one client, 1 to 1000000: an IPv4 address, or an IPv6 /64. An office behind one address has many.
        #[validate(range(min = 1, max = 1_000_000))]
        max_connections_per_client: u32 = 1024;
        /// TLS handshakes worked on at once, 1 to 1000000; more wait for their turn within handshake-timeout.
        #[validate(range(min = 1, max = 1_000_000))]
        max_handshakes: u32 = 512;
        /// Those of one client, 1 to 1000000; more are refused.
        #[validate(range(min = 1, max = 1_000_000))]
        max_handshakes_per_client: u32 = 64;
        /// Balancers, as networks such as "10.0.0.0/8", that say by the PROXY protocol (version 2) who their client is.
        /// They must say so, and nobody else may: policies and limits believe it.
        proxies: Vec<Network> = Vec::new();
        /// Time for the TLS handshake, 1s to 1m: a slow client must not hold a place for nothing.
        #[validate(range(min = Span::secs(1), max = Span::secs(60)))]
        handshake_timeout: Span = Span::secs(10);
        /// Time for a request's head, 1s to 1m: of the first one from the handshake, of others from their first byte.
        #[validate(range(min = Span::secs(1), max = Span::secs(60)))]
        header_timeout: Span = Span::secs(10);
        /// Time that a connection stays open with nothing under way, 1s to 1h: clients reuse one within seconds.
        #[validate(range(min = Span::secs(1), max = Span::secs(3600)))]
        idle_timeout: Span = Span::secs(60);
        /// Time for a request's body to arrive, 1s to 1h: a phone on a poor line sends 64 KiB in a few seconds.
        #[validate(range(min = Span::secs(1), max = Span::secs(3600)))]
        body_timeout: Span = Span::secs(20);
        /// Bytes a second, 1B to 1MiB, at which bodies of requests must come and replies be taken once a client has kept
        /// the gate waiting for 5 s: trickling holds memory.
        #[validate(range(min = Bytes(1), max = Bytes::mib(1)))]
        min_rate: Bytes = Bytes::kib(1);
        /// Time for a request as a whole, from its head to the end of its reply, 1s to 2h. It comes after all other
        /// limits, so let it be more than body-timeout and `[limits] wall` together; the connection is cut.
        #[validate(range(min = Span::secs(1), max = Span::secs(7200)))]
        request_timeout: Span = Span::secs(120);
        /// Time that requests in flight get to finish after SIGTERM, 0ms to 10m; most supervisors kill after 30 s.
        #[validate(range(max = Span::secs(600)))]
        drain: Span = Span::secs(25);
    }
}

section! {
    /// Certificate chain and key of the data plane, PEM; a relative path starts at the site.
    Tls {
        /// The chain, leaf first.
        certificate: PathBuf = PathBuf::from("certs/server.pem");
        /// Its private key: readable by its owner alone.
        key: PathBuf = PathBuf::from("certs/server.key");
        /// Whether a client that asks by name (SNI) for a host that neither a tenant lists nor the certificate above covers
        /// is refused. No: it gets that certificate and will see for itself; balancers check health by odd names.
        strict_sni: bool = false;
    }
}

section! {
    /// Ceilings: no tenant and no function gets more, whatever its files say.
    Limits {
        /// Thread CPU time of one invocation, 1ms to 1m.
        #[validate(range(min = Span::ms(1), max = Span::secs(60)))]
        cpu: Span = Span::secs(1);
        /// Time on the wall of one invocation, 10ms to 30m: it holds a place in the pool that long.
        #[validate(range(min = Span::ms(10), max = Span::secs(1800)))]
        wall: Span = Span::secs(30);
        /// Memories and tables of one invocation, 64KiB to 4GiB. The pool reserves address space for the ceiling at start: what
        /// is beyond that waits for a restart.
        #[validate(range(min = Bytes::kib(64), max = Bytes::mib(4096)))]
        memory: Bytes = Bytes::mib(128);
        /// Body of one reply, 0B to 64MiB; it is buffered whole.
        #[validate(range(max = Bytes::mib(64)))]
        response: Bytes = Bytes::mib(8);
        /// Invocations of one function in flight at once, 1 to 65536.
        #[validate(range(min = 1, max = 65_536))]
        concurrency: u32 = 256;
    }
}

section! {
    /// What a function gets that does not say: enough for a small one, and little to lose by a faulty one.
    Defaults {
        /// Thread CPU time of one invocation.
        #[validate(range(min = Span::ms(1), max = Span::secs(60)))]
        cpu: Span = Span::ms(50);
        /// Time on the wall of one invocation.
        #[validate(range(min = Span::ms(10), max = Span::secs(1800)))]
        wall: Span = Span::secs(2);
        /// Memories and tables of one invocation.
        #[validate(range(min = Bytes::kib(64), max = Bytes::mib(4096)))]
        memory: Bytes = Bytes::mib(64);
        /// Body of one reply.
        #[validate(range(max = Bytes::mib(64)))]
        response: Bytes = Bytes::mib(1);
        /// Invocations of one function in flight at once: one function must not fill the whole pool.
        #[validate(range(min = 1, max = 65_536))]
        concurrency: u32 = 64;
    }
}

section! {
    /// Bodies of requests.
    Events {
        /// Ceiling for `[event] max-bytes` of functions, 1B to 64MiB; a body is held in memory.
        #[validate(range(min = Bytes(1), max = Bytes::mib(64)))]
        max_bytes: Bytes = Bytes::mib(1);
    }
}

section! {
    /// The audit chain, under the data directory. Settled at start.
    Audit {
        /// "process": written before the reply's first byte, which survives `kill -9`; "machine": synced to disk first,
        /// which survives loss of power and costs a disk's latency.
        durability: Durability = Durability::Process;
        /// Size at which a segment is closed and the next begun, 64KiB to 1GiB: what `verify` reads at once.
        #[validate(range(min = Bytes::kib(64), max = Bytes::mib(1024)))]
        segment: Bytes = Bytes::mib(64);
        /// Size beyond which whole oldest segments go, 1MiB to 1024GiB. A disk that fills up stops the gate instead.
        #[validate(range(min = Bytes::mib(1), max = Bytes::mib(1 << 20)))]
        retain: Bytes = Bytes::mib(16 << 10);
        /// Ed25519 key (PKCS #8, PEM) that signs checkpoints. It lies outside the data directory: who can rewrite the
        /// chain must not be able to sign it. Without it there are no checkpoints, and `verify` says so.
        checkpoint_key: Option<PathBuf> = None;
    }
}

section! {
    /// Key sets of issuers that are fetched over https. Settled at start.
    Keys {
        /// Whether they may come from loopback, link-local and private addresses. No: whoever can write a URL into
        /// tenant.toml could otherwise make the gate knock at doors inside.
        allow_private: bool = false;
        /// Certificates (PEM) of further authorities that issuers' servers may have theirs from.
        extra_roots: Option<PathBuf> = None;
    }
}

section! {
    /// The pool that instances come from, and what makes components of files. Settled at start.
    Sandbox {
        /// Instances at once, 1 to 65536, of which no tenant holds more than it leaves. More requests are told to come again.
        #[validate(range(min = 1, max = 65_536))]
        instances: u32 = 512;
        /// Memory of all guests together, 64MiB to 16TiB, of which no tenant gets more than it leaves. Unless it is said, three
        /// quarters of what the machine has, or the gateway's control group: beyond that the kernel would end the gateway.
        #[validate(range(min = Bytes::mib(64), max = Bytes::mib(16 << 20)))]
        memory: Option<Bytes> = None;
        /// Memory that a slot of the pool keeps after use, 0B to 16MiB, of what its guest wrote: clearing a few pages is
        /// cheaper than giving them back to the kernel and faulting them in again. Python writes 2 MiB for a small call.
        /// A kernel before 6.7 cannot tell what was written, and at most 64 KiB are kept.
        #[validate(range(max = Bytes::mib(16)))]
        keep_resident: Bytes = Bytes::kib(256);
        /// Largest component, 1KiB to 256MiB: the time and memory of its compilation grow with it.
        #[validate(range(min = Bytes::kib(1), max = Bytes::mib(256)))]
        component: Bytes = Bytes::mib(32);
        /// Whether components of `wasi:http/proxy` 0.2 are served. They reach no more than others, but more of the engine
        /// stands behind what they reach; a site that has none may say no.
        portable: bool = true;
        /// Where functions run: "shared", in the gateway's own process; "process", each tenant's in a worker process of its
        /// own, which can reach nothing and whose end is nobody else's. A tenant.toml may ask for more than this, not for less.
        /// A change holds at once: for calls that begin from then on.
        isolation: Isolation = Isolation::Shared;
        /// Worker processes at once, 1 to 4096: one for each tenant that is isolated and called. Beyond, the one that was idle
        /// for longest ends, and if none is idle, requests are told to come again.
        #[validate(range(min = 1, max = 4096))]
        workers: u32 = 32;
        /// Instances at once in one worker process, 1 to 65536, of which no function takes more than it leaves free. The process's
        /// memory is bounded by as many times `[limits] memory`.
        #[validate(range(min = 1, max = 65_536))]
        worker_instances: u32 = 32;
        /// Time without a call after which a worker process ends, 1s to 1d; the next call starts one, in some 20 ms.
        #[validate(range(min = Span::secs(1), max = Span::secs(86_400)))]
        worker_idle: Span = Span::secs(300);
        /// Memory of the process that compiles one component, 64MiB to 64GiB: an interpreter of a scripting language takes 400 MiB.
        #[validate(range(min = Bytes::mib(64), max = Bytes::mib(65_536)))]
        compile_memory: Bytes = Bytes::mib(1024);
        /// Processor time of that process, 1s to 1h: such an interpreter takes 10 s.
        #[validate(range(min = Span::secs(1), max = Span::secs(3600)))]
        compile_cpu: Span = Span::secs(60);
    }
}

section! {
    /// Caches. Settled at start.
    Cache {
        /// Verified tokens that are kept, over all tenants, 0 to 10000000; some 2 KiB each. What falls out is verified again.
        #[validate(range(max = 10_000_000))]
        tokens: u32 = 65_536;
    }
}

/// Where a tenant's functions run; the greater is the stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// In the gateway's own process, beside those of others.
    #[default]
    Shared,
    /// In a process of the tenant's own.
    Process,
}

/// When a record counts as written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// With a completed write(2).
    Process,
    /// With a completed fdatasync(2).
    Machine,
}

/// All of `sandgate.toml`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Validate)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerConfig {
    /// `[server]`
    #[validate(nested)]
    pub server: Server,
    /// `[tls]`
    pub tls: Tls,
    /// `[limits]`
    #[validate(nested)]
    pub limits: Limits,
    /// `[defaults]`
    #[validate(nested)]
    pub defaults: Defaults,
    /// `[events]`
    #[validate(nested)]
    pub events: Events,
    /// `[audit]`
    #[validate(nested)]
    pub audit: Audit,
    /// `[keys]`
    #[validate(nested)]
    pub keys: Keys,
    /// `[sandbox]`
    #[validate(nested)]
    pub sandbox: Sandbox,
    /// `[cache]`
    #[validate(nested)]
    pub cache: Cache,
}

impl ServerConfig {
    /// Every key with its effective value and its reason, as a `sandgate.toml` that means the same.
    pub fn print(&self) -> String {
        let mut to =
            "# All settings as they are in effect. A file with these lines means the same.\n".to_owned();
        self.server.print("server", &mut to);
        self.tls.print("tls", &mut to);
        self.limits.print("limits", &mut to);
        self.defaults.print("defaults", &mut to);
        self.events.print("events", &mut to);
        self.audit.print("audit", &mut to);
        self.keys.print("keys", &mut to);
        self.sandbox.print("sandbox", &mut to);
        self.cache.print("cache", &mut to);
        to
    }

    /// Settings that are settled at start and differ in `next`, by name: what they make cannot be made anew under calls.
    pub fn held_until_restart(&self, next: &Self) -> Vec<&'static str> {
        let tables = (toml::Table::try_from(self), toml::Table::try_from(next));
        let (Ok(here), Ok(there)) = tables else { return SETTLED_AT_START.to_vec() };
        let differs = |name: &&&str| {
            let of = |table: &toml::Table| {
                let (section, key) = name.split_once('.')?;
                table.get(section)?.get(key).cloned()
            };
            of(&here) != of(&there)
        };
        let grows = next.limits.memory > self.limits.memory;
        SETTLED_AT_START.iter().filter(differs).copied().filter(|name| *name != MEMORY || grows).collect()
    }

    /// Files outside the site's own tree on which the platform part depends, as the operator names them.
    pub(super) fn named_files(&self) -> impl Iterator<Item = &Path> {
        [
            Some(&self.tls.certificate),
            Some(&self.tls.key),
            self.audit.checkpoint_key.as_ref(),
            self.keys.extra_roots.as_ref(),
        ]
        .into_iter()
        .flatten()
        .map(PathBuf::as_path)
    }
}

/// What the rest of a process is built on. `limits.memory` is, as far as it grows.
const SETTLED_AT_START: &[&str] = &[
    "server.listen",
    "server.ops-listen",
    MEMORY,
    "audit.durability",
    "audit.segment",
    "audit.retain",
    "audit.checkpoint-key",
    "keys.allow-private",
    "keys.extra-roots",
    "sandbox.instances",
    "sandbox.memory",
    "sandbox.keep-resident",
    "sandbox.component",
    "sandbox.portable",
    "sandbox.workers",
    "sandbox.worker-instances",
    "sandbox.worker-idle",
    "sandbox.compile-memory",
    "sandbox.compile-cpu",
    "cache.tokens",
];
const MEMORY: &str = "limits.memory";

fn comment(text: &str, to: &mut String) {
    to.push('#');
    to.push_str(text);
    to.push('\n');
}

/// A line of TOML, or what it would begin with where the key is not set.
fn entry(field: &str, value: Option<toml::Value>, to: &mut String) {
    let key = field.replace('_', "-");
    match value {
        Some(value) => to.push_str(&format!("{key} = {value}\n")),
        None => to.push_str(&format!("# {key} =\n")),
    }
}

#[cfg(test)]
mod tests;
