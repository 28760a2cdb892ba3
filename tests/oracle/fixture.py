"""Fixture files of the oracles: one JSON object a line, `{"event": …, "status": …, "body": …}`.

`event` is the body of a POST, `status` and `body` are what the function must answer: a JSON value is compared as a
value, a string byte for byte. Each oracle says in its own head if it differs. They are made once and committed, so the
tests need no Python; `--check` makes them anew and compares.
"""

import json
import pathlib
import sys
import unicodedata

FOLDER = pathlib.Path(__file__).parent


def keep(name, cases):
    """Writes the fixture `name`, or with `--check` fails if the committed one differs."""
    for case in cases:
        sent = json.dumps(case["event"], ensure_ascii=False)
        # The gateway would normalise it, and the function would get another event than the oracle.
        assert unicodedata.is_normalized("NFC", sent), sent
    text = "".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) + "\n" for case in cases)
    path = FOLDER / f"{name}.jsonl"
    if sys.argv[1:] == ["--check"]:
        if path.read_text("utf-8") != text:
            sys.exit(f"{path.name} is not what its oracle makes: run that without --check")
        print(f"{path.name}: {len(cases)} cases, as made")
    elif sys.argv[1:]:
        sys.exit(f"usage: python3 {sys.argv[0]} [--check]")
    else:
        path.write_text(text, "utf-8")
        print(f"{path.name}: {len(cases)} cases")
