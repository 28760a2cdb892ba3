//! Turns at the compiler: so many at once, shared out among tenants.
//!
//! Tenants that wait are served in turn, and of those the one that holds least: a second slot is a tenant's only while nobody
//! else waits for one. So a tenant whose components take the compiler's whole time costs another the rest of one
//! compilation, however many it asks for.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::id::TenantName;

/// For whom something is compiled; `None` where nobody says: a workbench, or a call that found its artefact lost.
pub(super) type For = Option<TenantName>;

/// A number of slots, and who waits for one.
#[derive(Debug)]
pub(super) struct Turns {
    state: Mutex<State>,
    /// A slot is free, or another is next.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: u32,
    /// Slots in use; nobody is here without one.
    holding: HashMap<For, u32>,
    /// Those who wait, by tenant; the front line is served next unless it holds more than another. No line is empty.
    lines: VecDeque<(For, VecDeque<u64>)>,
    next_ticket: u64,
    /// Of all turns that are over.
    taken: Duration,
}

/// A slot in use.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    who: For,
    begun: Instant,
}

/// How the slots are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Occupied {
    /// In use.
    pub(super) running: usize,
    /// Waiting for one.
    pub(super) waiting: usize,
    /// Time that was spent in those that are over.
    pub(super) taken: Duration,
}

impl Turns {
    pub(super) fn new(slots: u32) -> Self {
        let state = State {
            free: slots,
            holding: HashMap::new(),
            lines: VecDeque::new(),
            next_ticket: 0,
            taken: Duration::ZERO,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Waits for a slot. Those who wait are threads of ours, of which there is a bounded number.
    pub(super) fn take(&self, who: For) -> Turn<'_> {
        let mut state = self.lock();
        let ticket = state.line_up(&who);
        while state.next() != Some(ticket) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.serve(&who);
        drop(state);
        // There may be a slot for the next one as well.
        self.changed.notify_all();
        Turn { turns: self, who, begun: Instant::now() }
    }

    pub(super) fn occupied(&self) -> Occupied {
        let state = self.lock();
        Occupied {
            running: state.holding.values().map(|&slots| slots as usize).sum(),
            waiting: state.lines.iter().map(|(_, line)| line.len()).sum(),
            taken: state.taken,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic between two statements below would leave a number wrong by one at worst.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.lock().give_back(&self.who, self.begun.elapsed());
        self.turns.changed.notify_all();
    }
}

impl State {
    fn line_up(&mut self, who: &For) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        match self.lines.iter_mut().find(|(owner, _)| owner == who) {
            Some((_, line)) => line.push_back(ticket),
            None => self.lines.push_back((who.clone(), VecDeque::from([ticket]))),
        }
        ticket
    }

    fn held(&self, who: &For) -> u32 {
        self.holding.get(who).copied().unwrap_or_default()
    }

    /// Whose turn it is, if there is a slot: of the lines that hold least the first.
    fn next(&self) -> Option<u64> {
        let line = self.lines.iter().filter(|_| self.free > 0).min_by_key(|(who, _)| self.held(who));
        line.and_then(|(_, line)| line.front().copied())
    }

    fn give_back(&mut self, who: &For, after: Duration) {
        self.free += 1;
        self.taken += after;
        if let Some(held) = self.holding.get_mut(who) {
            *held -= 1;
            if *held == 0 {
                self.holding.remove(who);
            }
        }
    }

    /// The first of a line has its turn, and the line goes to the end.
    fn serve(&mut self, who: &For) {
        self.free = self.free.saturating_sub(1);
        *self.holding.entry(who.clone()).or_default() += 1;
        let Some(at) = self.lines.iter().position(|(owner, _)| owner == who) else { return };
        if let Some((owner, mut line)) = self.lines.remove(at) {
            line.pop_front();
            if !line.is_empty() {
                self.lines.push_back((owner, line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(name: &str) -> For {
        Some(name.parse().unwrap())
    }

    /// In which order those who stand in line are served, while each slot is given back before the next is given.
    fn served(state: &mut State, names: &[&str]) -> String {
        let tickets: HashMap<u64, &str> =
            names.iter().map(|name| (state.line_up(&who(name)), *name)).collect();
        let mut order = String::new();
        while let Some(ticket) = state.next() {
            order.push_str(tickets[&ticket]);
            state.serve(&who(tickets[&ticket]));
            state.give_back(&who(tickets[&ticket]), Duration::ZERO);
        }
        order
    }

    #[test]
    fn f08_tenants_take_turns_at_the_compiler() {
        let turns = Turns::new(1);
        assert_eq!(served(&mut turns.lock(), &["a", "a", "a", "a", "b", "c", "b"]), "abcabaa");
        let state = turns.lock();
        assert!(state.lines.is_empty() && state.holding.is_empty() && state.free == 1);
    }

    #[test]
    fn f08_a_tenant_has_a_second_slot_only_while_nobody_else_waits() {
        let turns = Turns::new(2);
        // Nobody else waits, so it has both…
        let (first, second) = (turns.take(who("a")), turns.take(who("a")));
        assert_eq!(turns.occupied().running, 2);
        let mut state = turns.lock();
        let [third, other] = ["a", "b"].map(|name| state.line_up(&who(name)));
        assert_eq!(state.next(), None);
        drop(state);
        drop(first);
        // … and whoever comes then has its turn before a third of its own.
        let mut state = turns.lock();
        assert_eq!(state.next(), Some(other));
        state.serve(&who("b"));
        assert_eq!(state.next(), None);
        state.give_back(&who("b"), Duration::ZERO);
        assert_eq!(state.next(), Some(third));
        drop(state);
        drop(second);
        assert_eq!((turns.occupied().running, turns.occupied().waiting), (0, 1));
    }

    #[test]
    fn f08_who_waits_for_a_turn_gets_it_when_one_is_over() {
        let turns = Turns::new(1);
        let turn = turns.take(who("a"));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| drop(turns.take(None)));
            while turns.occupied().waiting == 0 {
                std::thread::yield_now();
            }
            drop(turn);
            waiting.join().unwrap();
        });
        assert_eq!((turns.occupied().running, turns.occupied().waiting), (0, 0));
    }
}
