"""Oracle of globex/triage: Python, from what `functions/globex/triage/README.md` says of the model; it shares no code with
the function, which is JavaScript, nor with the script that trains.

It reads texts character by character where the function has regular expressions, and is exact: everything is whole numbers.
Run `python3 tests/oracle/triage.py`; the standard library is enough. The seed is fixed.
"""

import itertools
import json
import pathlib
import random

import fixture

FOLDER = pathlib.Path(__file__).parent.parent.parent / "functions/globex/triage"
MODEL = json.loads((FOLDER / "model.json").read_text("utf-8"))
CATEGORIES, WEIGHTS = MODEL["categories"], MODEL["weights"]


def words(text):
    """Runs of letters and digits of Latin script, in lower case, without apostrophes: two characters or more, one no digit."""
    found, run = [], ""
    for character in text + " ":
        code = ord(character)
        if character in "'’":
            continue
        if 0x41 <= code <= 0x5A or 0xC0 <= code <= 0xDE and code != 0xD7:
            code += 0x20
        if 0x61 <= code <= 0x7A or 0x30 <= code <= 0x39 or 0xDF <= code <= 0x24F and code != 0xF7:
            run += chr(code)
            continue
        if len(run) >= 2 and any(c not in "0123456789" for c in run):
            found.append(run)
        run = ""
    return found


def reply(subject, message):
    read = words(subject + "\n" + message)
    first = {}
    for word in reversed(read):
        first[word[: MODEL["stem"]]] = word
    known = [stem for stem in first if stem in WEIGHTS]
    scores = {c: sum(WEIGHTS[stem][at] for stem in known) for at, c in enumerate(CATEGORIES)}
    likeliest = max(CATEGORIES, key=scores.get)
    margin = scores[likeliest] - max(scores[c] for c in CATEGORIES if c != likeliest)
    clear = margin >= MODEL["margin"]
    at = CATEGORIES.index(likeliest)
    speaking = sorted((-WEIGHTS[stem][at], stem) for stem in known if WEIGHTS[stem][at] > 0)
    return {
        "category": likeliest if clear else "unclear",
        "margin": margin,
        "scores": scores,
        "evidence": [first[stem] for _, stem in speaking[:5]] if clear else [],
        "words": {"read": len(read), "known": sum(word[: MODEL["stem"]] in WEIGHTS for word in read)},
    }


def case(message, subject=None):
    event = {"message": message} if subject is None else {"subject": subject, "message": message}
    return {"event": event, "status": 200, "body": reply(subject or "", message)}


def corpus():
    lines = (FOLDER / "corpus.tsv").read_text("utf-8").splitlines()
    return [line.split("\t")[1] for line in lines if not line.startswith("#")]


def pair_leading_by(margin):
    """Two words between which, and the whole, exactly so much is decided."""
    for one, two in itertools.combinations([stem for stem in WEIGHTS if len(stem) > 2], 2):
        ahead = sorted(a + b for a, b in zip(WEIGHTS[one], WEIGHTS[two]))
        if ahead[-1] - ahead[-2] == margin:
            return f"{one} {two}"
    raise LookupError(margin)


# Each with the reason why it is here.
ODD = [
    case(""),
    case("   \n\t \n"),
    case("", "Where is my parcel?"),
    case("Where is it?", "  Parcel\nnot here  "),
    case("12 345 6789 0"),
    case("a b c d e I ? !"),
    case("Lorem ipsum dolor sit amet consectetur adipiscing"),
    case("INVOICE REFUND PAYMENT"),
    case("InVoIcE rEfUnD pAyMeNt"),
    case("invoice invoice invoice invoice"),
    case("invoice invoices invoiced invoicing"),
    case("I can't, you don't, we won't: password"),
    case("I can’t, you don’t, we won’t: password"),
    case("'''password'''"),
    case("pass'word pass’word pass`word pass-word pass_word"),
    case("e-mail/e_mail.e,mail"),
    case("two-factor;login|code\\reset"),
    # Apostrophes alone, and what is left of a word when they are gone.
    case("' ’ '' ’’ 'a' i'm"),
    case("4711abc abc4711 4 7a a7"),
    # Letters beyond ASCII: some are lowered, some are not, some are none.
    case("ÉCRAN écran NAÏVE naïve Ünlock ÜNLOCK ünlock"),
    case("ÀÖØÞ×ßàöø÷þÿ"),
    case("login×password÷refund"),
    case("Łódź Ġgantija İstanbul ıssız ǅ ɏ ɐ"),
    case("straße STRASSE STRAẞE"),
    case("ﬁle ﬂag ﬀ"),
    case("ｐａｓｓｗｏｒｄ ｒｅｆｕｎｄ"),
    case("𝐩𝐚𝐬𝐬𝐰𝐨𝐫𝐝 𝓇ℯ𝒻𝓊𝓃𝒹"),
    case("раssword"),
    # Scripts of which the model knows nothing.
    case("Не могу войти в аккаунт, пароль не подходит"),
    case("ログインできません。パスワードを忘れました。"),
    case("لا أستطيع تسجيل الدخول إلى حسابي"),
    case("मेरा पार्सल अभी तक नहीं आया"),
    case("我的包裹还没有到 tracking 号码"),
    case("결제가 두 번 되었습니다 refund"),
    case("πού είναι το δέμα μου; parcel"),
    case("איפה החבילה שלי"),
    # Symbols, alone and within words.
    case("😡😡😡"),
    case("📦 where?? 📦"),
    case("pass😀word parcel📦parcel 👩‍👩‍👧 🇬🇧"),
    case("€50 £50 $50 ¥50 refund%"),
    case("Refund…! “refund” «refund» ‹refund› —refund—"),
    case("re\u00adfund re\u200bfund re\u2060fund"),
    case("parcel\u00a0late\u2003parcel\u3000parcel\u2028parcel"),
    case("tab\tparcel\r\nline\rparcel"),
    case("<b>refund</b> <script>alert('refund')</script>"),
    case("'; DROP TABLE parcels; -- refund"),
    case("{\"message\": \"refund\"} \\u0072efund"),
    # As long as may be.
    case("parcel " * 571 + "end"),
    case("x" * 4000),
    case("😀" * 4000),
    case("é" * 4000),
    case(("password refund parcel crash privacy " * 200)[:4000]),
    case("n" * 3994 + " crash", "s" * 200),
    # Words that are names of other things in some languages.
    case("constructor prototype __proto__ toString hasOwnProperty null undefined NaN true"),
    # On the edge: nothing decided, a hair too little, just enough.
    case(pair_leading_by(0)),
    case(pair_leading_by(1)),
    case(pair_leading_by(MODEL["margin"] - 1)),
    case(pair_leading_by(MODEL["margin"])),
    case(pair_leading_by(MODEL["margin"] + 1)),
]


def main():
    chance = random.Random(7)
    messages = corpus()
    cases = list(ODD)
    cases += [case(message) for message in chance.sample(messages, 21)]
    # Two things at once, told in the subject and in the message.
    while len(cases) < 90:
        cases.append(case(chance.choice(messages), chance.choice([m for m in messages if len(m) <= 200])))
    # Words of the model and of nobody, in no order.
    while len(cases) < 100:
        known = chance.choices(list(WEIGHTS), k=chance.randrange(1, 40))
        unknown = ["".join(chance.choices("bcdfgàéøžĳ", k=6)) for _ in range(chance.randrange(10))]
        mixed = [chance.choice([word, word.upper(), word.title()]) for word in known + unknown]
        chance.shuffle(mixed)
        cases.append(case(chance.choice([" ", ", ", "\n", "/"]).join(mixed)))
    fixture.keep("triage", cases)


main()
