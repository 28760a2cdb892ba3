"""Oracle of acme/invoice: Python's `decimal`, which shares no code and no author with the function's arithmetic.

Run `python3 tests/oracle/invoice.py` (3.11, no packages). The seed is fixed.
"""

import decimal
import random
from decimal import Decimal

import fixture

# Arithmetic must never round: it raises. Only `money` may.
EXACT = decimal.Context(prec=60, traps=[decimal.InvalidOperation, decimal.Inexact])
ROUNDS = decimal.Context(prec=60, rounding=decimal.ROUND_HALF_EVEN, traps=[decimal.InvalidOperation])
PLACES = {"EUR": 2, "USD": 2, "CHF": 2, "INR": 2, "JPY": 0, "KRW": 0, "CLP": 0, "KWD": 3, "BHD": 3, "TND": 3}
RATES = ["0", "5", "5.5", "7", "7.00", "7.7", "8.1", "10", "19", "19.0", "20", "25.5", "100"]
WORDS = ["Espresso", "Crème brûlée", "Café", "Zahnrad M4", "Bleistift HB", "寿司", "O'Brien & Söhne", "Kabel <2 m>",
         'Brett 3/4"', "Hosting\tmonthly", "emoji 🎈", "back\\slash", "Wartung"]
PERCENT_RULE = "a decimal number from 0 to 100 with at most 2 digits after the point"


def money(value, places):
    rounded = value.quantize(Decimal(1).scaleb(-places), context=ROUNDS)
    return abs(rounded) if rounded.is_zero() else rounded


def plain(rate):
    """The shortest way to write a rate: "19.00" and "19" are one."""
    text = format(Decimal(rate), "f")
    return text.rstrip("0").rstrip(".") if "." in text else str(int(text))


def expected(event):
    errors = []
    places = PLACES.get(event["currency"])
    if places is None:
        errors.append({"pointer": "/currency", "message": "not a currency in use (ISO 4217)"})
    for index, line in enumerate(event["lines"]):
        for name in ("discount_percent", "tax_rate"):
            if Decimal(line.get(name, "0")) > 100:
                errors.append({"pointer": f"/lines/{index}/{name}", "message": PERCENT_RULE})
    if errors:
        return 422, {"errors": errors[:20]}
    lines, groups = [], {}
    for line in event["lines"]:
        with decimal.localcontext(EXACT):
            full = Decimal(line["quantity"]) * Decimal(line["unit_price"])
            left = full - full * Decimal(line.get("discount_percent", "0")) / 100
        net = money(left, places)
        rate = plain(line["tax_rate"])
        groups.setdefault(rate, []).append(net)
        lines.append({"description": line["description"], "tax_rate": rate, "net": format(net, "f")})
    taxes, total_net, total_tax = [], Decimal(0), Decimal(0)
    with decimal.localcontext(EXACT):
        for rate in sorted(groups, key=Decimal):
            net = sum(groups[rate], Decimal(0))
            tax = money(net * Decimal(rate) / 100, places)
            total_net, total_tax = total_net + net, total_tax + tax
            taxes.append({"rate": rate, "net": format(money(net, places), "f"), "tax": format(tax, "f")})
        gross = total_net + total_tax
    shown = {name: event[name] for name in ("number", "issued") if name in event}
    return 200, shown | {
        "currency": event["currency"], "lines": lines, "taxes": taxes,
        "net": format(money(total_net, places), "f"),
        "tax": format(money(total_tax, places), "f"),
        "gross": format(money(gross, places), "f"),
    }


def number(rng, whole, fraction):
    text = str(rng.randrange(10 ** rng.randint(1, whole)))
    places = rng.randint(0, fraction)
    return text + "." + "".join(rng.choice("0123456789") for _ in range(places)) if places else text


def line(rng):
    made = {"description": rng.choice(WORDS) + rng.choice(["", " ", f" {rng.randint(1, 99)}"]).rstrip()}
    kind = rng.randrange(6)
    if kind == 0:  # a half of the last place, or a hair beside it
        made |= {"quantity": rng.choice(["1", "-1", "0.5", "3"]),
                 "unit_price": f"{rng.randrange(1000)}.{rng.choice(['5', '005', '015', '0005', '0015', '2501', '2499'])}"}
    elif kind == 1:  # as large as the schema lets through
        made |= {"quantity": rng.choice(["", "-"]) + "999999.9999", "unit_price": "999999999.9999"}
    else:
        made |= {"quantity": rng.choice(["", "", "", "-"]) + number(rng, 6, 4), "unit_price": number(rng, 9, 4)}
    if rng.random() < 0.5:
        made["discount_percent"] = rng.choice(["0", "5", "10", "12.5", "33.33", "99.99", "100"])
    made["tax_rate"] = rng.choice(RATES)
    return made


def event(rng, index):
    made = {"currency": rng.choice(sorted(PLACES)), "lines": [line(rng) for _ in range(rng.choice([1, 1, 2, 3, 5, 12, 60]))]}
    if index == 99:
        made["lines"] = [line(rng) for _ in range(200)]
    if rng.random() < 0.5:
        made["number"] = f"{rng.choice(['R', 'RE-', 'Nº '])}{rng.randrange(100000)}"
    if rng.random() < 0.5:
        made["issued"] = f"20{rng.randint(20, 39)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    if index % 9 == 4:  # what the schema cannot see
        if rng.random() < 0.5:
            made["currency"] = rng.choice(["XXX", "XAU", "ABC"])
        for bad in rng.sample(made["lines"], rng.randint(0, len(made["lines"]))) or made["lines"][:1]:
            bad[rng.choice(["discount_percent", "tax_rate"])] = rng.choice(["100.01", "101", "999.99"])
    return made


def main():
    rng = random.Random(4217)
    cases = []
    for index in range(100):
        given = event(rng, index)
        status, body = expected(given)
        cases.append({"event": given, "status": status, "body": body})
    fixture.keep("invoice", cases)


main()
