"""Makes model.json of corpus.tsv. README.md beside it says what the numbers mean.

    python3 train.py            writes model.json and says how good it is
    python3 train.py --check    fails if the committed model.json is another

The standard library alone, and the same bytes everywhere: logarithms are of `decimal`, which rounds correctly, and not
of the machine's mathematics library.
"""

import collections
import decimal
import functools
import json
import pathlib
import re
import sys

FOLDER = pathlib.Path(__file__).parent
# Letters by which a word is known: "deliver", "delivery" and "delivered" are one.
STEM = 5
# Every which message of a category is held out.
HELD_OUT = 4
FOLDS = 10
# The margin is the smallest, in these steps, at which this many of a hundred filed messages are filed rightly.
STEP, RIGHT = 250, 90

decimal.getcontext().prec = 50


def main():
    trains, held_out = corpus()
    categories = sorted({category for category, _ in trains})
    margin = chosen_margin(categories, trains)
    model = {"categories": categories, "stem": STEM, "margin": margin, "weights": weights(categories, trains)}
    path, text = FOLDER / "model.json", written(model)
    if sys.argv[1:] == ["--check"]:
        if path.read_text("utf-8") != text:
            sys.exit("model.json is not what train.py makes of corpus.tsv: run python3 train.py")
        print("model.json is what train.py makes of corpus.tsv")
    elif sys.argv[1:]:
        sys.exit(f"usage: python3 {sys.argv[0]} [--check]")
    else:
        path.write_text(text, "utf-8")
        tell(model, trains, held_out)


def corpus():
    """What trains and what is held out: lists of category and stems."""
    parts, seen = ([], []), collections.Counter()
    for line in (FOLDER / "corpus.tsv").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            category, message = line.split("\t")
            seen[category] += 1
            parts[seen[category] % HELD_OUT == 0].append((category, stems(message)))
    return parts


def stems(text):
    text = re.sub("['’]", "", text)
    text = re.sub("[A-ZÀ-ÖØ-Þ]", lambda letter: chr(ord(letter[0]) + 32), text)
    words = re.findall("[a-z0-9ß-öø-ɏ]{2,}", text)
    return {word[:STEM] for word in words if re.search("[^0-9]", word)}


def weights(categories, messages):
    """Stem → for each category, thousandths by which it speaks for it, or against."""
    counts = collections.defaultdict(collections.Counter)
    for category, found in messages:
        for stem in found:
            counts[stem][category] += 1
    total = {c: sum(of[c] for of in counts.values()) for c in categories}
    logs = {}
    for stem, of in counts.items():
        # (count + 1/2) / (total + stems/2), as whole numbers.
        logs[stem] = [ln(2 * of[c] + 1) - ln(2 * total[c] + len(counts)) for c in categories]
    return {stem: [thousandths(one - sum(of) / len(of)) for one in of] for stem, of in sorted(logs.items())}


@functools.cache
def ln(number):
    return decimal.Decimal(number).ln()


def thousandths(number):
    return int((1000 * number).to_integral_value(decimal.ROUND_HALF_EVEN))


def judged(model, found):
    """The likeliest category, and by how much it leads."""
    scores = [0] * len(model["categories"])
    for stem in found & model["weights"].keys():
        scores = [score + weight for score, weight in zip(scores, model["weights"][stem])]
    best, second = sorted(scores, reverse=True)[:2]
    return model["categories"][scores.index(best)], best - second


def chosen_margin(categories, messages):
    """By cross-validation within what trains: what is held out has no say in it."""
    leads = []
    for fold in range(FOLDS):
        model = {
            "categories": categories,
            "weights": weights(categories, [m for i, m in enumerate(messages) if i % FOLDS != fold]),
        }
        for category, found in messages[fold::FOLDS]:
            guess, lead = judged(model, found)
            leads.append((lead, guess == category))
    margin = STEP
    while True:
        filed = [right for lead, right in leads if lead >= margin]
        if 100 * sum(filed) >= RIGHT * len(filed):
            return margin
        margin += STEP


def written(model):
    """JSON with a line for each stem, so that a change shows as one."""
    head = {name: value for name, value in model.items() if name != "weights"}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    stems = [f"  {json.dumps(s, ensure_ascii=False)}: {json.dumps(w)}" for s, w in model["weights"].items()]
    return "{\n" + "\n".join(lines) + '\n "weights": {\n' + ",\n".join(stems) + "\n }\n}\n"


def tell(model, trains, held_out):
    print(f"{len(trains)} messages trained {len(model['weights'])} stems; margin {model['margin']}")
    table, right = collections.Counter(), 0
    for category, found in held_out:
        guess, lead = judged(model, found)
        right += guess == category
        table[category, guess if lead >= model["margin"] else "unclear"] += 1
    columns = [*model["categories"], "unclear"]
    print(" " * 9 + "".join(f"{column:>9}" for column in columns))
    for row in model["categories"]:
        print(f"{row:9}" + "".join(f"{table[row, column]:9}" for column in columns))
    filed = sum(count for (_, guess), count in table.items() if guess != "unclear")
    sure = sum(table[category, category] for category in model["categories"])
    print(f"held out: {len(held_out)}; likeliest right {right}; filed {filed}, rightly {sure}")


main()
