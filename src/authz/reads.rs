//! Which tags and circumstances a set of policies looks at: records hold these and no others (design.md §9).

use std::collections::BTreeSet;

use cedar_policy::{
    Policy,
    pst::{BinaryOp, Clause, Expr, Literal, Var},
};
use serde::Serialize;

use super::request::CONTEXT_FIELDS;

/// What policies read, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reads {
    /// Tags of the caller.
    pub tags: BTreeSet<String>,
    /// Whether a policy computes the name of a tag, so that any may be read.
    pub any_tag: bool,
    /// Fields of the context.
    pub context: BTreeSet<String>,
    /// Labels that functions are asked for.
    #[serde(skip)]
    pub(super) labels: BTreeSet<String>,
    /// Scopes that callers are asked for.
    #[serde(skip)]
    pub(super) scopes: BTreeSet<String>,
}

impl Reads {
    /// Walks the conditions of the policies; scopes of policies read neither.
    pub(super) fn of<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut reads = Self::default();
        for policy in policies.into_iter().filter(|policy| policy.has_non_scope_constraint()) {
            match policy.to_pst() {
                Ok(tree) => {
                    for clause in tree.body().clauses() {
                        let (Clause::When(condition) | Clause::Unless(condition)) = clause;
                        reads.walk(condition);
                    }
                }
                // Not known is taken as everything.
                Err(_) => reads.everything(),
            }
        }
        reads
    }

    /// Takes in what others read.
    pub(super) fn merge(&mut self, other: &Self) {
        self.any_tag |= other.any_tag;
        for (own, others) in [
            (&mut self.tags, &other.tags),
            (&mut self.context, &other.context),
            (&mut self.labels, &other.labels),
            (&mut self.scopes, &other.scopes),
        ] {
            own.extend(others.iter().cloned());
        }
    }

    fn everything(&mut self) {
        self.any_tag = true;
        self.context.extend(CONTEXT_FIELDS.map(str::to_owned));
    }

    fn walk(&mut self, expression: &Expr) {
        match expression {
            Expr::Literal(_) | Expr::Var(Var::Principal | Var::Action | Var::Resource) | Expr::Slot(_) => {}
            // The context as a whole, not one field of it.
            Expr::Var(Var::Context) => self.context.extend(CONTEXT_FIELDS.map(str::to_owned)),
            Expr::UnaryOp { expr, .. } | Expr::Like { expr, .. } => self.walk(expr),
            Expr::BinaryOp { op: BinaryOp::GetTag | BinaryOp::HasTag, left, right } => {
                match &**right {
                    Expr::Literal(Literal::String(name)) => _ = self.tags.insert(name.to_string()),
                    computed => {
                        self.any_tag = true;
                        self.walk(computed);
                    }
                }
                self.walk(left);
            }
            Expr::BinaryOp { op, left, right } => {
                if matches!(op, BinaryOp::Contains | BinaryOp::ContainsAll | BinaryOp::ContainsAny)
                    && let Expr::GetAttr { attr, .. } = &**left
                {
                    match attr.as_str() {
                        "labels" => strings(right, &mut self.labels),
                        "scopes" => strings(right, &mut self.scopes),
                        _ => {}
                    }
                }
                self.walk(left);
                self.walk(right);
            }
            Expr::GetAttr { expr, attr } => match &**expr {
                Expr::Var(Var::Context) => _ = self.context.insert(attr.to_string()),
                inner => self.walk(inner),
            },
            Expr::HasAttr { expr, attrs } => match &**expr {
                Expr::Var(Var::Context) => _ = self.context.insert(attrs.first().to_string()),
                inner => self.walk(inner),
            },
            Expr::Is { expr, in_expr, .. } => {
                self.walk(expr);
                in_expr.iter().for_each(|inner| self.walk(inner));
            }
            Expr::IfThenElse { cond, then_expr, else_expr } => {
                [cond, then_expr, else_expr].into_iter().for_each(|inner| self.walk(inner));
            }
            Expr::Set(items) => items.iter().for_each(|inner| self.walk(inner)),
            Expr::Record(fields) => fields.values().for_each(|inner| self.walk(inner)),
            // Cedar may add kinds of expression; what is not known is taken as everything.
            _ => self.everything(),
        }
    }
}

/// The strings of a literal, or of a set of literals.
fn strings(expression: &Expr, into: &mut BTreeSet<String>) {
    match expression {
        Expr::Literal(Literal::String(text)) => _ = into.insert(text.to_string()),
        Expr::Set(items) => items.iter().for_each(|item| strings(item, into)),
        _ => {}
    }
}
