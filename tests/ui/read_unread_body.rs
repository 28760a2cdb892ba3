//! Nobody but the event stage opens a body.

use sandgate::event::UnreadBody;

fn read(body: UnreadBody) {
    let UnreadBody(inner) = body;
    let _ = inner;
}

fn main() {}
