"""Oracle of globex/calendar: RFC 5545 written a second time, from the text of the standard and in another manner.

The function escapes and folds byte by byte in C; here whole lines are made first and cut afterwards.
Run `python3 tests/oracle/calendar_feed.py` (3.11, no packages). The seed is fixed. Where PyPI's `icalendar` is installed, it
reads each feed too and must find in it what was sent.
"""

import datetime
import random

import fixture

try:
    import icalendar
except ImportError:
    icalendar = None

CHARS = list("abcdefghijklmnopqrstuvwxyz  ABC 0123456789.,;:\\\"'!?()<>&%=/-") + list("äöüßéñçžłøÅİ") + list("日本語カレンダー한국어") + [
    "🎈", "👩‍🚀", "𝄞", "\t", "\n", "\r\n", "€", "Ω", "\u00a0", "ﬁ", "\\n", "\\,"]
TITLES = ["Stand-up", "Crème brûlée tasting", "Q3 review; budget, plan", "会議", "O'Brien's farewell", "C:\\temp clean-up"]


def content_line(name, value):
    """§3.1: at most 75 octets a line, never inside a character; what follows begins with one blank."""
    rest, lines, most = f"{name}:{value}".encode(), [], 75
    while len(rest) > most:
        cut = most
        while rest[cut] & 0xC0 == 0x80:
            cut -= 1
        lines.append(rest[:cut])
        rest, most = rest[cut:], 74
    return b"\r\n ".join([*lines, rest]) + b"\r\n"


def text(value):
    """§3.3.11"""
    value = value.replace("\\", "\\\\").replace(";", "\\;").replace(",", "\\,")
    return value.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\\n")


def time(value):
    return datetime.datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").strftime("%Y%m%dT%H%M%SZ")


def exists(value):
    try:
        time(value)
    except ValueError:
        return False
    return True


def feed(event):
    lines = [("BEGIN", "VCALENDAR"), ("VERSION", "2.0"), ("PRODID", "-//Globex//Calendar//EN"), ("CALSCALE", "GREGORIAN"),
             ("NAME", text(event["calendar"])), ("X-WR-CALNAME", text(event["calendar"]))]
    for one in event["events"]:
        lines += [("BEGIN", "VEVENT"), ("UID", text(one["uid"])), ("DTSTAMP", time(one.get("updated", one["start"]))),
                  ("DTSTART", time(one["start"])), ("DTEND", time(one["end"])), ("SUMMARY", text(one["title"]))]
        lines += [(name.upper(), text(one[name])) for name in ("location", "description") if name in one]
        lines += [("END", "VEVENT")]
    return b"".join(content_line(*line) for line in [*lines, ("END", "VCALENDAR")]).decode()


def expected(event):
    errors = []
    seen = set()
    for index, one in enumerate(event["events"]):
        wrong = []
        if one["uid"] in seen:
            wrong.append(("uid", "is the uid of an event before it"))
        seen.add(one["uid"])
        bad = [name for name in ("start", "end", "updated") if name in one and not exists(one[name])]
        wrong += [(name, "is not a time in UTC, such as 2026-11-24T10:00:00Z") for name in bad]
        if not bad and time(one["end"]) <= time(one["start"]):
            wrong.append(("end", "is not later than the start"))
        errors += [{"pointer": f"/events/{index}/{name}", "message": message} for name, message in wrong]
    return (422, {"errors": errors[:20]}) if errors else (200, feed(event))


def is_read_back(event, body):
    """A reader with no part in this must find the same texts and times."""
    calendar = icalendar.Calendar.from_ical(body)
    assert max(len(line) for line in body.encode().split(b"\r\n")) <= 75
    found = calendar.walk("VEVENT")
    assert len(found) == len(event["events"])
    for sent, got in zip(event["events"], found):
        for name, key in (("uid", "UID"), ("title", "SUMMARY"), ("location", "LOCATION"), ("description", "DESCRIPTION")):
            if name in sent:
                assert str(got[key]) == sent[name].replace("\r\n", "\n").replace("\r", "\n"), (sent[name], str(got[key]))
        for name, key in (("start", "DTSTART"), ("end", "DTEND")):
            assert got[key].dt == datetime.datetime.fromisoformat(sent[name]), sent[name]


def words(rng, most):
    return "".join(rng.choice(CHARS) for _ in range(rng.randint(1, most))).strip() or "x"


def meeting(rng, uid):
    start = datetime.datetime(rng.choice([1970, 1999, 2024, 2026, 2038, 2100]), 1, 1) + datetime.timedelta(
        seconds=rng.randrange(366 * 86400))
    end = start + datetime.timedelta(seconds=rng.choice([1, 900, 3600, 86400, 7 * 86400, 45296]))
    made = {"uid": uid, "title": rng.choice(TITLES) if rng.random() < 0.5 else words(rng, 120),
            "start": f"{start:%Y-%m-%dT%H:%M:%S}Z", "end": f"{end:%Y-%m-%dT%H:%M:%S}Z"}
    if rng.random() < 0.5:
        made["location"] = words(rng, 80)
    if rng.random() < 0.6:
        made["description"] = words(rng, 400)
    if rng.random() < 0.3:
        made["updated"] = "2026-11-01T08:00:00Z"
    return made


def spoil(rng, one, others):
    """What the schema cannot see."""
    match rng.randrange(3):
        case 0:
            one["end"] = one["start"]
        case 1:
            one["start"], one["end"] = one["end"], one["start"]
        case 2:
            one["uid"] = rng.choice(others)["uid"]


def main():
    rng = random.Random(5545)
    cases = []
    for index in range(100):
        count = 60 if index == 99 else rng.choice([1, 1, 2, 3, 5, 10])
        meetings = [meeting(rng, f"{index}-{n}.{rng.randrange(10**rng.randint(1, 90))}@globex.example") for n in range(count)]
        if index % 11 == 6:
            for one in rng.sample(meetings, rng.randint(1, count)):
                spoil(rng, one, meetings)
        if index < 20:  # a boundary of folding at each place, with characters of 1 to 4 bytes
            meetings[0]["title"] = "x" * (55 + index) + rng.choice("aä語🎈") * 40
        event = {"calendar": rng.choice(["Team", "Globex: Räume, Zeiten; alles", words(rng, 60)]), "events": meetings}
        status, body = expected(event)
        if status == 200 and icalendar:
            is_read_back(event, body)
        cases.append({"event": event, "status": status, "body": body})
    fixture.keep("calendar", cases)


main()
