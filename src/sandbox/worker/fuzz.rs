//! Entry point for fuzzing: whatever one end of a worker's socket says, the other reads it within bounds or not at all.

use std::time::Duration;

use super::{
    super::{Limits, Usage},
    frames::{HEAD_BYTES, Kind, Splitter},
    message::{self, Call, Terms},
};

/// Bytes of a socket; the first says how they are cut. Both ends read them.
pub fn worker_frames(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let mut splitter = Splitter::default();
    for chunk in bytes.chunks(usize::from(*piece).max(1)) {
        splitter.buffer().extend_from_slice(chunk);
        loop {
            let Ok(Some((head, body))) = splitter.next(|_| Ok(MOST_BYTES)) else { break };
            assert!(body.len() <= MOST_BYTES);
            match head.kind {
                Kind::Answer => answered(&body),
                Kind::Call => called(&body),
                // What it says is plain data.
                Kind::Load => drop(Terms::read(&body)),
                Kind::Unload | Kind::Cancel => {}
            }
        }
        assert!(splitter.buffer().capacity() <= 2 * (bytes.len() + MOST_BYTES + HEAD_BYTES) + 1024);
    }
}

fn answered(body: &[u8]) {
    let (limits, took, mut usage) = (Limits::default(), Duration::from_millis(7), Usage::default());
    let Ok(result) = message::read_answer(body, &limits, took, &mut usage) else { return };
    assert!(usage.cpu <= took && usage.peak_memory <= limits.memory.value.0);
    match result {
        Ok(reply) => {
            assert!(reply.body.len() as u64 <= limits.response.value.0 && (200..=599).contains(&reply.status))
        }
        Err(error) => assert!(!error.to_string().contains(|c: char| c.is_control() && c != '\n')),
    }
}

/// What was read is written and read as the same.
fn called(body: &[u8]) {
    let Ok(call) = Call::read(body) else { return };
    let again = message::call(call.function, call.elapsed, call.authority, &call.event());
    let again = Call::read(again.get(HEAD_BYTES..).unwrap_or_default()).map(|call| format!("{call:?}"));
    assert_eq!(again, Ok(format!("{call:?}")));
}

/// Enough to tell bounded from not.
const MOST_BYTES: usize = 64 << 10;
