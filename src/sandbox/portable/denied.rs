//! Interfaces that runtimes of scripting languages import whether or not the program uses them, linked to a denial with nothing
//! behind it: no clock, no randomness, no socket is in this program for a guest to reach (design.md §8, *Possible*).
//!
//! A function whose type has the error `access-denied` returns it; any other call is a trap, and the record names it.

use wasmtime::{
    Engine,
    component::{
        Linker, ResourceType, Type, Val,
        types::{self, ComponentItem},
    },
};

use super::{
    super::admission::printable,
    base::{Fault, Guest},
    is_denied,
};

/// Defines what a component imports of these interfaces.
pub(super) fn define(
    linker: &mut Linker<Guest>,
    engine: &Engine,
    component: &types::Component,
) -> wasmtime::Result<()> {
    for (import, item) in component.imports(engine) {
        let ComponentItem::ComponentInstance(interface) = item.ty else { continue };
        if !is_denied(import) {
            continue;
        }
        let mut instance = linker.instance(import)?;
        for (name, item) in interface.exports(engine) {
            match item.ty {
                ComponentItem::ComponentFunc(_) => {
                    // For the record: the author chose the name, and how long it is.
                    let called =
                        printable(&format!("{}.{name}", import.split('@').next().unwrap_or_default()));
                    instance.func_new(name, move |_, ty, _, results| deny(&called, &ty, results))?;
                }
                ComponentItem::Resource(_) if !OF_IO.contains(&name) => {
                    instance.resource(name, ResourceType::host::<Nothing>(), |_, _| Ok(()))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn deny(called: &str, ty: &types::ComponentFunc, results: &mut [Val]) -> wasmtime::Result<()> {
    if let (Some(Type::Result(result)), Some(place)) = (ty.results().next(), results.first_mut())
        && let Some(Type::Enum(errors)) = result.err()
        && errors.names().any(|name| name == DENIED)
    {
        *place = Val::Result(Err(Some(Box::new(Val::Enum(DENIED.to_owned())))));
        return Ok(());
    }
    Err(wasmtime::Error::new(Fault::Denied(called.to_owned())))
}

/// What a guest never holds one of.
struct Nothing;

const DENIED: &str = "access-denied";

/// Resources of `wasi:io` that other interfaces name; they are defined there.
const OF_IO: [&str; 4] = ["error", "input-stream", "output-stream", "pollable"];
