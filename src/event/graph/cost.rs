//! What a schema may cost: subschemas that nest on one value, and how many apply along one path into an event (D9).

use std::collections::BTreeMap;

use super::{Finding, Graph, Step};

impl<'s> Graph<'s> {
    /// The nodes ordered so that each comes after those it leads to on the same value; or one of a cycle.
    pub(super) fn in_order(&self) -> Result<Vec<usize>, usize> {
        let mut waits: Vec<usize> = vec![0; self.nodes.len()];
        let mut leads_here: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (from, node) in self.nodes.iter().enumerate() {
            for (step, to) in &node.steps {
                if step.stays() {
                    if let Some(count) = waits.get_mut(from) {
                        *count += 1;
                    }
                    if let Some(sources) = leads_here.get_mut(*to) {
                        sources.push(from);
                    }
                }
            }
        }
        let mut order: Vec<usize> = (0..self.nodes.len()).filter(|at| waits.get(*at) == Some(&0)).collect();
        let mut next = 0;
        while let Some(done) = order.get(next).copied() {
            next += 1;
            for from in leads_here.get(done).into_iter().flatten() {
                if let Some(count) = waits.get_mut(*from) {
                    *count -= 1;
                    if *count == 0 {
                        order.push(*from);
                    }
                }
            }
        }
        match waits.iter().position(|count| *count > 0) {
            Some(at) => Err(at),
            None => Ok(order),
        }
    }

    /// Bounds nesting on one value, and how many subschemas can apply along one path into a value.
    pub(super) fn measure(&self, order: &[usize], depth: u32, findings: &mut Vec<Finding>) {
        let mut nesting: Vec<usize> = vec![1; self.nodes.len()];
        for at in order {
            let deepest = self.steps(*at).iter().filter(|(step, _)| step.stays());
            let deepest = deepest.filter_map(|(_, to)| nesting.get(*to)).max().copied().unwrap_or(0) + 1;
            if let Some(own) = nesting.get_mut(*at) {
                *own = deepest;
            }
        }
        if let Some(at) = nesting.iter().position(|n| *n > MAX_NESTING) {
            findings.push(self.fault(
                at,
                format!("more than {MAX_NESTING} subschemas nest here on one value"),
                "flatten `allOf`, `anyOf`, `oneOf` and chains of `$ref`",
            ));
            return;
        }
        match self.applications(order, depth) {
            Some(count) if count <= MAX_APPLICATIONS => {}
            _ => findings.push(self.fault(
                0,
                format!("more than {MAX_APPLICATIONS} subschemas may apply along one path of an event"),
                "recurse in one branch of `anyOf` and `oneOf` only, choose by `if` and `then`, or lower `max-depth`",
            )),
        }
    }

    /// Upper bound of subschemas applied along the worst path of that depth; none if even counting is too long.
    ///
    /// `F(s, d) = A(s) + max over members m of Σ F(c, d − 1)`, where `A(s)` counts the subschemas on one value and the
    /// sum is over all subschemas that these put on the member `m`.
    fn applications(&self, order: &[usize], depth: u32) -> Option<u64> {
        let mut budget = MAX_COUNTING;
        let mut below: Vec<u64> = vec![0; self.nodes.len()];
        for _ in 0..=depth {
            // For every node: subschemas on this value; on members by name; on any other member; on items.
            let mut all: Vec<Reach<'s>> = (0..self.nodes.len()).map(|_| Reach::default()).collect();
            for at in order {
                let mut reach = Reach { here: 1, ..Reach::default() };
                for (step, to) in self.steps(*at) {
                    budget = budget.checked_sub(1)?;
                    let weight = below.get(*to).copied().unwrap_or(0);
                    match step {
                        Step::Property(name) => reach.add_named(name, weight),
                        Step::Items | Step::SomeItems => reach.items = reach.items.saturating_add(weight),
                        Step::Additional => reach.add_others(weight, |name| !self.names(*at, name)),
                        Step::Members => reach.add_others(weight, |_| true),
                        Step::Ref | Step::Combine | Step::Ask => {
                            if let Some(other) = all.get(*to) {
                                budget = budget.checked_sub(other.named.len() + reach.named.len())?;
                                reach.merge(other);
                            }
                        }
                    }
                }
                if let Some(own) = all.get_mut(*at) {
                    *own = reach;
                }
            }
            let now: Vec<u64> = all.iter().map(Reach::worst).collect();
            if now == below {
                break;
            }
            below = now;
        }
        below.first().copied()
    }
}

/// Weights of what one node puts on its value and on what is in it.
#[derive(Debug, Default)]
struct Reach<'s> {
    here: u64,
    /// By name, the weight of `others` included.
    named: BTreeMap<&'s str, u64>,
    others: u64,
    items: u64,
}

impl<'s> Reach<'s> {
    fn add_named(&mut self, name: &'s str, weight: u64) {
        let others = self.others;
        let own = self.named.entry(name).or_insert(others);
        *own = own.saturating_add(weight);
    }

    fn add_others(&mut self, weight: u64, applies: impl Fn(&str) -> bool) {
        self.others = self.others.saturating_add(weight);
        for (name, own) in &mut self.named {
            if applies(name) {
                *own = own.saturating_add(weight);
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.here = self.here.saturating_add(other.here);
        self.items = self.items.saturating_add(other.items);
        let before = self.others;
        for (name, own) in &mut self.named {
            *own = own.saturating_add(other.named.get(name).copied().unwrap_or(other.others));
        }
        for (name, weight) in &other.named {
            self.named.entry(name).or_insert_with(|| before.saturating_add(*weight));
        }
        self.others = before.saturating_add(other.others);
    }

    fn worst(&self) -> u64 {
        let inside = self.named.values().copied().max().unwrap_or(0).max(self.others).max(self.items);
        self.here.saturating_add(inside)
    }
}

/// Nesting of subschemas on one value: with 32 levels of the value it bounds the validator's stack to 512 frames.
const MAX_NESTING: usize = 16;

/// Subschemas along one path of an event: a flat `oneOf` of some hundred kinds stays below, two recursing branches
/// (2^32) do not.
const MAX_APPLICATIONS: u64 = 10_000;

/// Steps spent on counting, so that `check` stays quick whatever it is given.
const MAX_COUNTING: usize = 20_000_000;
