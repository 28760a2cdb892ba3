//! `acme/invoice`: items, discounts and taxes in, totals out, in exact decimal arithmetic.
//!
//! Each line is rounded half to even to the currency's minor units; tax is taken once per rate from the sum of the
//! rounded lines; gross is the sum of what is shown, so an invoice always adds up by hand.

pub mod currency;
pub mod totals;

use serde::Serialize;
use totals::{Fault, Invoice};

/// Status and JSON body of the reply to one event.
pub fn reply(event: &[u8]) -> (u16, Vec<u8>) {
    // The gateway has validated the event; a body that still is no invoice is refused like any other fault in it.
    let answer = match serde_json::from_slice::<Invoice>(event) {
        Ok(invoice) => invoice.totals(),
        Err(_) => Err(vec![Fault { pointer: String::new(), message: "not an invoice" }]),
    };
    match answer {
        Ok(totals) => (200, json(&totals)),
        Err(errors) => (422, json(&Refusal { errors })),
    }
}

#[derive(Serialize)]
struct Refusal {
    errors: Vec<Fault>,
}

fn json(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    // Writing texts and lists of texts into memory has no way to fail.
    if serde_json::to_writer(&mut out, value).is_err() {
        out.clear();
    }
    out
}

#[cfg(target_family = "wasm")]
mod guest {
    wit_bindgen::generate!({ path: "../../wit", world: "function" });

    use exports::sandgate::function::handler::{Event, Guest, Response};

    #[global_allocator]
    static HEAP: mini_alloc::MiniAlloc = mini_alloc::MiniAlloc::INIT;

    struct Invoice;

    impl Guest for Invoice {
        fn handle(event: Event) -> Response {
            let (status, body) = crate::reply(&event.body);
            Response { status, content_type: "application/json".into(), headers: Vec::new(), body }
        }
    }

    export!(Invoice);
}
