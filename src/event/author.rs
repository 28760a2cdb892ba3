//! A manifest's `[event]`, read for its author: every fault and warning at once, each at its place.

use std::sync::Arc;

use toml::Spanned;

use super::{
    cloudevents,
    headers::HeaderList,
    injection::Mode,
    json::JsonLimits,
    media::{Form, MediaType},
    schema::Schema,
    schemas::Schemas,
};
use crate::site::{
    diagnostic::{Diagnostic, Source},
    manifest::RawEvent,
    parse::nearest,
};

/// Talks to the author of a manifest.
pub(super) struct Author<'a> {
    pub(super) source: &'a Source,
    pub(super) schemas: &'a Schemas,
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Author<'_> {
    fn fault<T>(&mut self, place: &Spanned<T>, message: impl Into<String>, hint: impl Into<String>) {
        self.diagnostics.push(Diagnostic::fault(message).at(self.source, place.span()).hint(hint));
    }

    fn warn<T>(&mut self, place: &Spanned<T>, message: impl Into<String>, hint: impl Into<String>) {
        self.diagnostics.push(Diagnostic::warning(message).at(self.source, place.span()).hint(hint));
    }

    pub(super) fn limits(&mut self, event: &RawEvent) -> JsonLimits {
        let max = JsonLimits::MAX;
        let string = event.max_string.as_ref().map(|s| Spanned::new(s.span(), s.get_ref().0));
        let string_bytes = self.lower("max-string", string.as_ref(), max.string_bytes as u64);
        JsonLimits {
            depth: self.lower("max-depth", event.max_depth.as_ref(), max.depth),
            nodes: self.lower("max-nodes", event.max_nodes.as_ref(), max.nodes),
            string_bytes: usize::try_from(string_bytes).unwrap_or(max.string_bytes),
            items: self.lower_count("max-items", event.max_items.as_ref(), max.items),
            members: self.lower_count("max-members", event.max_members.as_ref(), max.members),
        }
    }

    fn lower_count(&mut self, key: &str, written: Option<&Spanned<u32>>, max: usize) -> usize {
        let bound = self.lower(key, written, u32::try_from(max).unwrap_or(u32::MAX));
        usize::try_from(bound).unwrap_or(max)
    }

    /// A limit may be lowered only.
    fn lower<T: Copy + PartialOrd + std::fmt::Display>(
        &mut self,
        key: &str,
        written: Option<&Spanned<T>>,
        max: T,
    ) -> T {
        match written {
            Some(bound) if *bound.get_ref() > max => {
                self.fault(bound, format!("`{key}` is above the platform's limit"), format!("at most {max}"));
                max
            }
            Some(bound) => *bound.get_ref(),
            None => max,
        }
    }

    pub(super) fn injection(&mut self, written: Option<&Spanned<String>>) -> Mode {
        match written.map(|w| w.get_ref().as_str()) {
            None | Some("detect") => Mode::Detect,
            Some("off") => Mode::Off,
            Some("block") => Mode::Block,
            Some(other) => {
                let message = format!("`injection` cannot be `{other}`");
                if let Some(place) = written {
                    self.fault(place, message, "`off`, `detect` (the default) or `block`");
                }
                Mode::Block
            }
        }
    }

    /// Whether the function takes CloudEvents.
    pub(super) fn envelope(&mut self, event: &RawEvent) -> bool {
        let Some(written) = &event.envelope else { return false };
        if written.get_ref() != CLOUDEVENTS {
            let meant = nearest(written.get_ref(), [CLOUDEVENTS]);
            let hint = match meant {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("`{CLOUDEVENTS}`, or nothing for events without an envelope"),
            };
            self.fault(written, format!("`envelope` cannot be `{}`", written.get_ref()), hint);
        }
        for name in event.media_types.iter().flat_map(|types| types.get_ref()) {
            if cloudevents::is_of_cloudevents(name.get_ref()) {
                self.fault(
                    name,
                    format!("`{}` is the envelope, not what is in it", name.get_ref()),
                    "list the media types of the data; `envelope` takes the envelope in both content modes",
                );
            }
        }
        true
    }

    pub(super) fn headers(&mut self, written: &[Spanned<String>]) -> HeaderList {
        let mut list = HeaderList::new();
        for name in written {
            if let Err(fault) = list.add(name.get_ref()) {
                let message = fault.to_string().replace("{name}", name.get_ref());
                self.fault(name, message, "list only what the function reads");
            }
        }
        if written.len() > MAX_LISTED_HEADERS
            && let Some(last) = written.last()
        {
            self.fault(
                last,
                format!("more than {MAX_LISTED_HEADERS} headers are listed"),
                "list only what the function reads",
            );
        }
        list
    }

    pub(super) fn schema(
        &mut self,
        named: Option<&Spanned<String>>,
        source: Option<&Source>,
        depth: u32,
    ) -> Option<Arc<Schema>> {
        let named = named?;
        match source {
            Some(source) => self.schemas.compile(source, depth, &mut self.diagnostics),
            None => {
                self.fault(
                    named,
                    format!("`{}` could not be read", named.get_ref()),
                    "put the schema beside the manifest",
                );
                None
            }
        }
    }

    pub(super) fn media_types(
        &mut self,
        written: Option<&Spanned<Vec<Spanned<String>>>>,
        has_schema: bool,
    ) -> Vec<MediaType> {
        let Some(written) = written else {
            return if has_schema { vec![MediaType::json()] } else { Vec::new() };
        };
        let mut types: Vec<MediaType> = Vec::new();
        for name in written.get_ref() {
            match MediaType::listed(name.get_ref()) {
                None => self.fault(
                    name,
                    format!("`{}` is no media type that a function can take", name.get_ref()),
                    "write one type in lower case, without wildcard or parameters; no `multipart`",
                ),
                Some(media_type) if types.contains(&media_type) => {
                    self.fault(name, format!("`{}` is listed twice", name.get_ref()), "remove one");
                }
                Some(media_type) => {
                    if matches!(media_type.form, Form::Json | Form::Pairs) && !has_schema {
                        self.fault(
                            name,
                            format!("`{}` needs a schema", name.get_ref()),
                            "name one as `[event] schema`: what nobody described cannot be validated",
                        );
                    }
                    types.push(media_type);
                }
            }
        }
        if has_schema && !types.iter().any(|t| matches!(t.form, Form::Json | Form::Pairs)) {
            self.warn(written, "the schema is never used", "list `application/json`, or remove `schema`");
        }
        types
    }

    pub(super) fn note_raw(&mut self, schema: Option<&Spanned<String>>) {
        let message = "the function gets the exact bytes besides the validated event";
        let hint = "only for checking a signature over them: a second parser may read them differently";
        match schema {
            Some(place) => self.warn(place, message, hint),
            None => self.diagnostics.push(Diagnostic::warning(message).in_file(self.source).hint(hint)),
        }
    }
}

/// The one envelope that there is.
const CLOUDEVENTS: &str = "cloudevents";

const MAX_LISTED_HEADERS: usize = 32;
