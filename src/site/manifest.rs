//! `functions/<tenant>/<function>/function.toml`, as written.

use serde::Deserialize;
use toml::Spanned;

use super::units::{Bytes, Span};

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawManifest {
    /// The component, binary or text, relative to the manifest.
    pub component: Spanned<String>,
    /// Methods it answers.
    pub methods: Spanned<Vec<Spanned<String>>>,
    /// Words that policies may ask for.
    #[serde(default)]
    pub labels: Vec<Spanned<String>>,
    /// One sentence for people; into `openapi`.
    pub summary: Option<String>,
    /// What it takes.
    #[serde(default)]
    pub event: RawEvent,
    /// What it gives.
    #[serde(default)]
    pub response: RawResponse,
    /// What it may use up.
    #[serde(default)]
    pub limits: RawLimits,
}

impl RawManifest {
    /// Paths that it names, relative to itself.
    pub fn named_files(&self) -> impl Iterator<Item = &str> {
        let schemas = [&self.event.schema, &self.event.query, &self.response.schema];
        let schemas = schemas.into_iter().flatten().map(|path| path.get_ref().as_str());
        std::iter::once(self.component.get_ref().as_str()).chain(schemas)
    }
}

/// `[event]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawEvent {
    /// JSON Schema of the body, a file beside the manifest. Without it only an empty body is taken.
    pub schema: Option<Spanned<String>>,
    /// JSON Schema of the query. Without it any query is refused.
    pub query: Option<Spanned<String>>,
    /// Whether path segments may follow the function's name.
    #[serde(default)]
    pub rest: bool,
    /// Whether the function gets the exact bytes too.
    #[serde(default)]
    pub raw: bool,
    /// `cloudevents`: CloudEvents 1.0 and nothing else.
    pub envelope: Option<Spanned<String>>,
    /// Largest body.
    pub max_bytes: Option<Spanned<Bytes>>,
    /// Media types besides, or instead of, `application/json`.
    pub media_types: Option<Spanned<Vec<Spanned<String>>>>,
    /// `off`, `detect` or `block`.
    pub injection: Option<Spanned<String>>,
    /// Request headers that the function may see.
    #[serde(default)]
    pub headers: Vec<Spanned<String>>,
    /// Deepest nesting of arrays and objects (≤ 32).
    pub max_depth: Option<Spanned<u32>>,
    /// Most values in one event (≤ 10 000).
    pub max_nodes: Option<Spanned<u32>>,
    /// Longest string or name, in bytes (≤ 64 KiB).
    pub max_string: Option<Spanned<Bytes>>,
    /// Longest array (≤ 1 000).
    pub max_items: Option<Spanned<u32>>,
    /// Most members of one object (≤ 256).
    pub max_members: Option<Spanned<u32>>,
}

/// `[response]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawResponse {
    /// JSON Schema of the reply's body.
    pub schema: Option<Spanned<String>>,
}

/// `[limits]` of a function, `[ceilings]` of a tenant: with the platform's `[limits]`, the smallest holds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawLimits {
    /// Thread CPU time.
    pub cpu: Option<Spanned<Span>>,
    /// Time on the wall.
    pub wall: Option<Spanned<Span>>,
    /// All linear memories and tables together.
    pub memory: Option<Spanned<Bytes>>,
    /// The reply's body.
    pub response: Option<Spanned<Bytes>>,
    /// Invocations in flight at once.
    pub concurrency: Option<Spanned<u32>>,
}
