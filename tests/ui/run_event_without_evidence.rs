//! A function does not run on an event made by hand: the way in wants evidence.

use sandgate::sandbox::{Runner, Usage};

async fn run(runner: &Runner, usage: &mut Usage) {
    let _ = runner.run_event(Default::default(), usage).await;
}

fn main() {}
