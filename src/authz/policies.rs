//! Policy files compiled: parsed, named, validated strictly, and everything wrong with them said at once.
//!
//! Both file sets, the operator's guardrails and a tenant's own, go through here, so that both obey the same rules:
//! static policies only, an `@id` each, no error by the schema.

use std::{
    collections::{HashMap, hash_map::Entry},
    ops::Range,
    str::FromStr as _,
    sync::Arc,
};

use cedar_policy::{
    Effect, Policy, PolicyId, PolicySet, Template, ValidationMode, Validator, ffi::DetailedError,
};

use super::{
    scope::DoorIn,
    statements::{MAX_POLICIES, statements},
    vocabulary::Vocabulary,
};
use crate::site::diagnostic::{Diagnostic, Source};

/// Longest `@id`, in bytes: it goes into every record of a decision that it determined.
const MAX_ID_BYTES: usize = 64;
/// Longest `@code` or `@hint`, in bytes.
const MAX_NOTE_BYTES: usize = 512;
/// Most faults told of one file set: the rest repeats.
const MAX_DIAGNOSTICS: usize = 200;
/// Policies that are parsed in one go: enough for what a parse costs at first to be forgotten, few enough that a slip
/// in one of them sends no more than these to be parsed alone.
const BATCH: usize = 64;

/// One policy of a compiled file set: where its text is, and what it is for. Its syntax tree is made again from the
/// text when a slice needs it: ten thousand tenants' trees at once would be hundreds of megabytes.
#[derive(Debug, Clone)]
pub(super) struct Indexed {
    /// What decisions and records say of it.
    pub(super) note: Arc<Note>,
    /// Which of the sources, and where in it.
    pub(super) source: u16,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) door_in: DoorIn,
}

impl Indexed {
    /// Its text within the sources it was compiled from.
    pub(super) fn text<'a>(&self, sources: &'a [Source]) -> &'a str {
        sources
            .get(usize::from(self.source))
            .and_then(|source| source.text.get(self.start as usize..self.end as usize))
            .unwrap_or_default()
    }

    /// Its syntax tree. Fails for no text that `compile` took.
    pub(super) fn parse(&self, sources: &[Source]) -> Result<Policy, String> {
        Policy::parse(Some(PolicyId::new(&*self.note.id)), self.text(sources))
            .map_err(|error| error.to_string())
    }
}

/// What an author wrote about a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    /// `acme/<@id>`, `guardrails/<@id>` or `builtin/<@id>`.
    pub(super) id: Arc<str>,
    pub(super) forbids: bool,
    /// `@code`: a word for programs.
    pub(super) code: Option<Arc<str>>,
    /// `@hint`: a sentence for people.
    pub(super) hint: Option<Arc<str>>,
}

/// A policy in the middle of being compiled, for a file set's own rules.
pub(super) struct Draft<'a> {
    pub(super) policy: &'a Policy,
    pub(super) source: &'a Source,
    pub(super) span: Range<usize>,
}

impl Draft<'_> {
    /// What its author wrote behind `@name`. Cedar's own look-up parses the name each time.
    fn annotation(&self, name: &str) -> Option<&str> {
        self.policy.annotations().find(|(key, _)| *key == name).map(|(_, text)| text)
    }

    /// Its first line: what is underlined when the whole policy is at fault.
    pub(super) fn first_line(&self) -> Range<usize> {
        first_line(self.source, &self.span)
    }

    /// Where `needle` stands in it, else its first line.
    pub(super) fn find(&self, needle: &str) -> Range<usize> {
        let text = self.source.text.get(self.span.clone()).unwrap_or_default();
        match text.find(needle) {
            Some(at) => self.span.start + at..self.span.start + at + needle.len(),
            None => self.first_line(),
        }
    }
}

/// Compiles one file set. `owner` is the first part of its policies' ids; `rules` adds what the set's kind demands.
///
/// Nothing is usable if any diagnostic is a fault; the caller looks.
pub(super) fn compile(
    validator: &Validator,
    names: &Vocabulary,
    owner: &str,
    sources: &[Source],
    diagnostics: &mut Vec<Diagnostic>,
    mut rules: impl FnMut(&Draft<'_>, &mut Vec<Diagnostic>),
) -> (Vec<Indexed>, PolicySet) {
    let mut index: Vec<Indexed> = Vec::new();
    let mut by_id: HashMap<Arc<str>, usize> = HashMap::new();
    let mut starts: Vec<usize> = Vec::new();
    let mut set = PolicySet::new();
    let cut: Vec<_> = sources.iter().map(|source| statements(&source.text)).collect();
    let texts = sources.iter().zip(&cut).flat_map(|(source, cuts)| {
        cuts.iter().flatten().map(|span| source.text.get(span.clone()).unwrap_or_default())
    });
    let texts: Vec<&str> = texts.take(MAX_POLICIES).collect();
    let mut parsed = texts.chunks(BATCH).flat_map(parse_together);
    for ((number, source), cuts) in sources.iter().enumerate().zip(&cut) {
        let cuts = match cuts {
            Ok(cuts) => cuts,
            Err(error) => {
                let fault = Diagnostic::fault(error.to_string());
                diagnostics.push(match error.span() {
                    Some(span) => fault.at(source, span),
                    None => fault.in_file(source),
                });
                continue;
            }
        };
        for span in cuts.iter().cloned() {
            let together = parsed.next().flatten();
            if index.len() >= MAX_POLICIES || diagnostics.len() >= MAX_DIAGNOSTICS {
                if index.len() >= MAX_POLICIES {
                    diagnostics.push(
                        Diagnostic::fault(format!("`{owner}` may have {MAX_POLICIES} policies"))
                            .at(source, first_line(source, &span)),
                    );
                }
                return (index, set);
            }
            let text = source.text.get(span.clone()).unwrap_or_default();
            let parsed = match together {
                Some(parsed) => Ok(parsed),
                None => Policy::parse(None, text).map(|policy| Parsed { policy, start: 0 }),
            };
            let Parsed { policy, start } = match parsed {
                Ok(parsed) => parsed,
                Err(errors) => {
                    match Template::parse(None, text) {
                        Ok(template) if template.slots().next().is_some() => diagnostics.push(
                            Diagnostic::fault(
                                "a template is not allowed: nothing links it, so it would never apply",
                            )
                            .at(source, first_line(source, &span))
                            .hint("write the principal and the resource out"),
                        ),
                        _ => report(&DetailedError::from(&errors), source, &span, 0, true, diagnostics),
                    }
                    continue;
                }
            };
            let draft = Draft { policy: &policy, source, span: span.clone() };
            rules(&draft, diagnostics);
            let Some(note) = note(&draft, owner, diagnostics) else { continue };
            let id = Arc::clone(&note.id);
            match by_id.entry(Arc::clone(&id)) {
                Entry::Occupied(_) => {
                    diagnostics.push(
                        Diagnostic::fault(format!("two policies have the id `{id}`"))
                            .at(source, draft.first_line())
                            .hint("give each its own `@id`"),
                    );
                    continue;
                }
                Entry::Vacant(entry) => _ = entry.insert(index.len()),
            }
            let door_in = DoorIn::of(&policy, names);
            if let Err(error) = set.add(policy.new_id(PolicyId::new(&*id))) {
                diagnostics.push(Diagnostic::fault(error.to_string()).at(source, draft.first_line()));
                continue;
            }
            starts.push(start);
            index.push(Indexed {
                note: Arc::new(note),
                source: u16::try_from(number).unwrap_or(u16::MAX),
                start: u32::try_from(span.start).unwrap_or(u32::MAX),
                end: u32::try_from(span.end).unwrap_or(u32::MAX),
                door_in,
            });
        }
    }
    let result = validator.validate(&set, ValidationMode::Strict);
    let place = |id: &PolicyId| {
        let number = *by_id.get(AsRef::<str>::as_ref(id))?;
        let at = index.get(number)?;
        let source = sources.get(usize::from(at.source))?;
        Some((source, at.start as usize..at.end as usize, *starts.get(number)?))
    };
    let errors =
        result.validation_errors().map(|error| (error.policy_id(), DetailedError::from(error), true));
    let warnings = result.validation_warnings().map(|w| (w.policy_id(), DetailedError::from(w), false));
    let mut found = Vec::new();
    for (id, error, fault) in errors.chain(warnings) {
        match place(id) {
            Some((source, span, start)) => report(&error, source, &span, start, fault, &mut found),
            None => found.push(Diagnostic::fault(error.message)),
        }
    }
    diagnostics.extend(one_for_each_place(found));
    (index, set)
}

/// A policy as Cedar parsed it, and where it began in the text that was parsed.
#[derive(Clone)]
struct Parsed {
    policy: Policy,
    start: usize,
}

/// Parses statements in one go: each parse begins by working out Cedar's lexer anew, which takes longer than a policy.
///
/// One for each; `None` where it has to be parsed alone, so that what is wrong with it is told of it and of no other.
fn parse_together(statements: &[&str]) -> Vec<Option<Parsed>> {
    let all = || -> Option<Vec<Option<Parsed>>> {
        let mut text = String::with_capacity(statements.iter().map(|statement| statement.len() + 1).sum());
        let mut starts = Vec::with_capacity(statements.len());
        for statement in statements {
            starts.push(text.len());
            text.push_str(statement);
            text.push('\n');
        }
        let set = PolicySet::from_str(&text).ok()?;
        let parsed = |(number, (statement, start)): (usize, (&&str, usize))| {
            // Cedar numbers them in their order. Whatever it cut elsewhere than we did is no policy of ours.
            let policy = set.policy(&PolicyId::new(format!("policy{number}")))?;
            let same = policy.to_cedar().is_some_and(|text| text == **statement);
            same.then(|| Some(Parsed { policy: policy.clone(), start }))
        };
        statements.iter().zip(starts).enumerate().map(parsed).collect()
    };
    all().unwrap_or_else(|| vec![None; statements.len()])
}

/// Cedar's own report, and those related to it, moved to where the statement stands in its file; `start` is where it
/// stood in what Cedar parsed.
pub(super) fn report(
    error: &DetailedError,
    source: &Source,
    statement: &Range<usize>,
    start: usize,
    fault: bool,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let label = error.source_locations.first();
    let mut message = error.message.clone();
    if let Some(label) = label.and_then(|l| l.label.as_deref()) {
        message = format!("{message}: {label}");
    }
    let mut diagnostic = if fault { Diagnostic::fault(message) } else { Diagnostic::warning(message) };
    let span = label.map_or_else(
        || first_line(source, statement),
        |label| {
            let moved = |at: usize| statement.start + at.saturating_sub(start);
            let first = moved(label.loc.start).min(statement.end);
            first..moved(label.loc.end).clamp(first, statement.end)
        },
    );
    diagnostic = diagnostic.at(source, span);
    if let Some(help) = &error.help {
        diagnostic = diagnostic.hint(help.clone());
    }
    diagnostics.push(diagnostic);
    for related in &error.related {
        report(related, source, statement, start, fault, diagnostics);
    }
}

/// Cedar judges a policy once for every action it could match, in no order: one report for each place is enough.
fn one_for_each_place(mut found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let place = |d: &Diagnostic| {
        let (source, span) = d.source.clone()?;
        Some((source.path, span.map(|span| (span.start, span.end))))
    };
    found.sort_by_cached_key(|d| (place(d), d.severity, d.message.clone()));
    found.dedup_by(|a, b| place(a) == place(b));
    found
}

fn note(draft: &Draft<'_>, owner: &str, diagnostics: &mut Vec<Diagnostic>) -> Option<Note> {
    let Some(id) = draft.annotation("id") else {
        diagnostics.push(
            Diagnostic::fault("a policy has no `@id`")
                .at(draft.source, draft.first_line())
                .hint("write `@id(\"…\")` above it: records and explanations name the policy by it"),
        );
        return None;
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if id.is_empty() || id.len() > MAX_ID_BYTES || !id.bytes().all(plain) {
        diagnostics.push(
            Diagnostic::fault(format!(
                "a policy id is 1 to {MAX_ID_BYTES} letters, digits, `-`, `_` and `.`"
            ))
            .at(draft.source, draft.find("@id")),
        );
        return None;
    }
    let mut word = |name: &str| -> Option<Arc<str>> {
        let text = draft.annotation(name)?;
        if text.len() > MAX_NOTE_BYTES {
            diagnostics.push(
                Diagnostic::fault(format!("`@{name}` may have {MAX_NOTE_BYTES} bytes"))
                    .at(draft.source, draft.find(&format!("@{name}"))),
            );
            return None;
        }
        Some(text.into())
    };
    let (code, hint) = (word("code"), word("hint"));
    let forbids = draft.policy.effect() == Effect::Forbid;
    Some(Note { id: format!("{owner}/{id}").into(), forbids, code, hint })
}

/// The rest of the line on which a statement starts.
fn first_line(source: &Source, span: &Range<usize>) -> Range<usize> {
    let text = source.text.get(span.clone()).unwrap_or_default();
    span.start..span.start + text.find(['\n', '\r']).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        statements(text).unwrap().into_iter().map(|span| &text[span]).collect()
    }

    #[test]
    fn policies_parsed_in_one_go_are_those_parsed_alone() {
        let texts = [
            include_str!("../../policies/guardrails.cedar"),
            include_str!("../../policies/acme/invoice.cedar"),
            "// a; b\n@id(\"x;\\\"\") // c\n permit(principal, // d; e\r action, resource)\n when { \"//;\" like \"*é*\" };",
        ];
        let statements: Vec<&str> = texts.iter().flat_map(|text| cut(text)).collect();
        assert!(statements.len() > 3);
        let mut end = 0;
        for (statement, together) in statements.iter().zip(parse_together(&statements)) {
            let (together, alone) = (together.unwrap(), Policy::parse(None, statement).unwrap());
            assert_eq!(together.policy.to_json().unwrap(), alone.to_json().unwrap());
            assert_eq!(together.start, end);
            end += statement.len() + 1;
        }
    }

    #[test]
    fn pieces_that_only_together_are_policies_are_parsed_alone() {
        let one = "permit(principal, action, resource);";
        for pieces in [
            // A slip spoils no neighbour.
            ["permit(principal, action);", one, one],
            ["permit(principal, action, resource)", "when { true };", one],
            // One piece that is two, and one that is none.
            ["permit(principal, action, resource); permit(principal, action, resource);", "", one],
            ["permit(principal == ?principal, action, resource);", one, one],
        ] {
            assert!(parse_together(&pieces).iter().all(Option::is_none), "{pieces:?}");
        }
    }
}
