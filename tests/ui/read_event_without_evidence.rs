//! An event is not read of a bare head and body: the way in wants evidence.

use sandgate::event::{EventRules, UnreadBody};

async fn read(rules: &EventRules, body: UnreadBody) {
    let _ = rules.read_event(Default::default(), body).await;
}

fn main() {}
