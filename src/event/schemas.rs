//! Compiled schemas, shared by all functions that have the same: of many tenants' functions most do, and a compiled
//! schema of the sample is some 9 KiB.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::schema::Schema;
use crate::site::diagnostic::{Diagnostic, Source};

/// Those in use, by their text and how deeply values may nest; it may outlive the functions.
#[derive(Debug, Default)]
pub struct Schemas(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_text: HashMap<(Arc<str>, u32), Compiled>,
    /// Those that nobody uses any more are swept when there are this many (**Bounded**).
    sweep_at: usize,
}

#[derive(Debug)]
struct Compiled {
    schema: Weak<Schema>,
    /// Warnings, which are told for every file that has this text.
    told: Arc<[Diagnostic]>,
}

impl Schemas {
    /// As [`Schema::compile`], which it calls once for the same text and depth while somebody uses what came of it.
    pub(super) fn compile(
        &self,
        source: &Source,
        depth: u32,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Arc<Schema>> {
        let key = (Arc::clone(&source.text), depth);
        if let Some((schema, told)) = self.known(&key) {
            diagnostics.extend(told.iter().map(|warning| of(warning, source)));
            return Some(schema);
        }
        // Not under the lock: threads that come with the same at once both compile it, and the last one's is shared.
        let before = diagnostics.len();
        let schema = Arc::new(Schema::compile(source, depth, diagnostics)?);
        let told = diagnostics.iter().skip(before).cloned().collect();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.by_text.len() >= known.sweep_at {
            known.by_text.retain(|_, compiled| compiled.schema.strong_count() > 0);
            known.sweep_at = known.by_text.len() * 2 + 64;
        }
        known.by_text.insert(key, Compiled { schema: Arc::downgrade(&schema), told });
        Some(schema)
    }

    fn known(&self, key: &(Arc<str>, u32)) -> Option<(Arc<Schema>, Arc<[Diagnostic]>)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let compiled = known.by_text.get(key)?;
        Some((compiled.schema.upgrade()?, Arc::clone(&compiled.told)))
    }
}

/// The same of another file of the same text.
fn of(warning: &Diagnostic, source: &Source) -> Diagnostic {
    let place = warning.source.as_ref().map(|(_, span)| (source.clone(), span.clone()));
    Diagnostic { source: place, ..warning.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: &str = "{\n  \"type\": \"object\"\n}";

    fn compile(schemas: &Schemas, path: &str, text: &str, depth: u32) -> (Option<Arc<Schema>>, Vec<String>) {
        let mut told = Vec::new();
        let schema = schemas.compile(&Source::new(path, text), depth, &mut told);
        (schema, told.iter().map(Diagnostic::one_line).collect())
    }

    #[test]
    fn equal_schemas_are_one_and_their_warnings_are_told_of_each_file() {
        let schemas = Schemas::default();
        let (first, told) = compile(&schemas, "a/event.schema.json", OPEN, 8);
        let (second, told_again) = compile(&schemas, "b/event.schema.json", OPEN, 8);
        assert!(Arc::ptr_eq(&first.unwrap(), &second.unwrap()));
        assert!(told.iter().any(|line| line.contains("a/event.schema.json")), "{told:?}");
        let moved: Vec<String> = told.iter().map(|line| line.replace("a/event", "b/event")).collect();
        assert_eq!(moved, told_again);
    }

    #[test]
    fn another_text_or_depth_is_another_schema_and_a_faulty_one_is_told_every_time() {
        let schemas = Schemas::default();
        let (one, _) = compile(&schemas, "a", OPEN, 8);
        let (deeper, _) = compile(&schemas, "a", OPEN, 9);
        let (other, _) = compile(&schemas, "a", &OPEN.replace("object", "array"), 8);
        let one = one.unwrap();
        assert!(!Arc::ptr_eq(&one, &deeper.unwrap()) && !Arc::ptr_eq(&one, &other.unwrap()));
        for path in ["a.json", "b.json"] {
            let (schema, told) = compile(&schemas, path, "{\"type\": \"strin\"}", 8);
            assert!(schema.is_none() && told.len() == 1 && told[0].starts_with(path), "{told:?}");
        }
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let schemas = Schemas::default();
        for n in 0..1_000 {
            compile(&schemas, "a", &format!("{{\"title\": \"{n}\", \"type\": \"string\"}}"), 8);
        }
        assert!(schemas.0.lock().unwrap().by_text.len() <= 64);
    }
}
