"""Oracle of acme/render: another Markdown parser (`markdown-it-py`), another reader of HTML (Python's `html.parser`) and an
allow-list written again.

Run with `pip install markdown-it-py==4.3.0`: `python3 tests/oracle/render.py`. The seed is fixed.

The comparison is not byte for byte, since CommonMark leaves line breaks between tags to the writer: `body.html` is in a
normal form, in which no line feed stands directly after `>` or directly before `<`. A test takes the same line feeds out of
what the function answers (text and attributes hold no bare `<` or `>`: both writers escape them), then compares.

Hostile HTML, which two parsers are bound to read differently, is in the tests of the function itself; here it is well formed.
"""

import html.parser
import random
import re

import fixture
import markdown_it

KEPT = {
    "a": ["href", "title"], "img": ["src", "alt", "title"], "ol": ["start"],
    **dict.fromkeys("blockquote br code del em h1 h2 h3 h4 h5 h6 hr li p pre strong sub sup table tbody td th thead tr ul".split(), []),
}
VOID = {"br", "hr", "img"}
SCHEMES = {"http", "https", "mailto"}


class Safe(html.parser.HTMLParser):
    """Writes what it reads as the HTML standard serializes it (§13.3), without what is not kept."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.out, self.silent = [], 0

    def handle_starttag(self, tag, attributes):
        tag = {"s": "del"}.get(tag, tag)
        if tag in ("script", "style"):
            self.silent += 1
        if tag not in KEPT:
            return
        kept = [(name, value) for name, value in attributes if name in KEPT[tag] and safe(name, value)]
        if tag == "a":
            kept.append(("rel", "noopener noreferrer nofollow"))
        self.out.append("<" + "".join([tag, *(f' {name}="{quoted(value)}"' for name, value in kept)]) + ">")

    def handle_endtag(self, tag):
        tag = {"s": "del"}.get(tag, tag)
        if tag in ("script", "style"):
            self.silent -= 1
        if tag in KEPT and tag not in VOID:
            self.out.append(f"</{tag}>")

    def handle_data(self, data):
        if not self.silent:
            self.out.append(escaped(data))


def safe(name, value):
    if name not in ("href", "src"):
        return True
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", value)
    return not scheme or scheme[1].lower() in SCHEMES


def escaped(text):
    return text.replace("&", "&amp;").replace("\u00a0", "&nbsp;").replace("<", "&lt;").replace(">", "&gt;")


def quoted(text):
    return escaped(text).replace('"', "&quot;")


def normal(page):
    return re.sub(r"\n+(?=<)", "", re.sub(r"(?<=>)\n+", "", page))


def expected(markdown):
    parser = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    parser.validateLink = lambda _: True  # links are judged once, by `safe`
    reader = Safe()
    reader.feed(parser.render(markdown))
    reader.close()
    return normal("".join(reader.out))


WORDS = ["alpha", "beta", "Straße", "naïve", "東京", "O'Brien", 'say "hi"', "a & b", "x < y", "1 > 0", "&copy;", "&amp;lt;", "5 \\* 3", "🎈",
         "under_score_name", "100%", "semi;colon", "&#x41;", "\\<b\\>", "a\u00a0b", "C:\\temp", "3.14"]
URLS = ["https://a.example/", "http://a.example/p?q=1&r=2#f", "/docs/intro", "page.html", "#top", "mailto:ann@a.example",
        "javascript:alert(1)", "JAVASCRIPT:alert(1)", "data:text/html;base64,PGI+", "vbscript:x", "ftp://a.example/f", "//b.example/x"]
RAW = ["<span class=\"x\" onclick=\"y()\">{}</span>", "<sub>{}</sub>", "<u>{}</u>", "<em id=\"i\">{}</em>", "<font color=\"red\">{}</font>",
       "<a href=\"https://c.example/\" target=\"_blank\" onmouseover=\"z()\">{}</a>", "<!-- {} -->", "<sup style=\"color:red\">{}</sup>"]


def words(rng, most=8):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))


def inline(rng, depth=0):
    if depth > 2:
        return words(rng, 3)
    inner = lambda: inline(rng, depth + 1)
    match rng.randrange(11):
        case 0: return f"*{words(rng, 3)}* {inner()}"
        case 1: return f"before **bold {rng.choice(WORDS[:4])}** {inner()}"
        case 2: return f"~~gone {rng.choice(WORDS[:4])}~~ {inner()}"
        case 3: return f"`code <b> & {rng.choice(WORDS[:4])}` {inner()}"
        case 4: return f"[{words(rng, 2)}]({rng.choice(URLS)}) {inner()}"
        case 5: return f"[{words(rng, 2)}](<{rng.choice(URLS)}> \"a title\") {inner()}"
        case 6: return f"![{rng.choice(WORDS[:4])}]({rng.choice(URLS)}) {inner()}"
        case 7: return f"<https://d.example/{rng.randrange(99)}> {inner()}"
        case 8: return rng.choice(RAW).format(rng.choice(WORDS[:4])) + " " + inner()
        case 9: return f"{words(rng, 3)}{rng.choice(['  ', chr(92), ''])}\n{inner()}"
        case _: return words(rng)


def one_line(rng):
    return inline(rng).replace("\n", " ")


def block(rng, depth=0):
    nested = lambda: block(rng, depth + 1)
    kinds = 12 if depth < 2 else 7
    match rng.randrange(kinds):
        case 0: return "#" * rng.randint(1, 6) + " " + one_line(rng)
        case 1: return words(rng, 4) + "\n" + rng.choice(["===", "---"])
        case 2: return "```" + rng.choice(["", "rust", "html"]) + "\nlet a = \"<b>\" && 'c';\n\n  " + rng.choice(WORDS) + "\n```"
        case 3: return "    indented a < b & more\n    " + rng.choice(WORDS[:4])
        case 4: return rng.choice(["---", "***", "_ _ _"])
        case 5 if not depth: return table(rng)
        case 6: return rng.choice(["<script>\nalert(1) && x\n</script>", "<style>p { color: red }</style>", "<hr class=\"x\">",
                                   "<blockquote onclick=\"x()\">raw</blockquote>", "<h2 style=\"top:0\">raw</h2>"])
        case 7: return quote(nested())
        case 8: return "\n".join(f"{rng.choice(['-'])} {one_line(rng)}" for _ in range(rng.randint(1, 4)))
        case 9: return "\n".join(f"{n}. {one_line(rng)}" for n in range(rng.choice([1, 1, 3, 7]), 10)[:3])
        case 10: return "- " + nested().replace("\n", "\n  ") + "\n\n  " + one_line(rng) + "\n- last"
        case _: return inline(rng)


def table(rng):
    columns = rng.randint(1, 4)
    row = lambda: "| " + " | ".join(words(rng, 2).replace("|", "") for _ in range(columns)) + " |"
    rule = "|" + "|".join(rng.choice(["---", ":--", "--:", ":-:"]) for _ in range(columns)) + "|"
    return "\n".join([row(), rule, *(row() for _ in range(rng.randint(1, 4)))])


def quote(text):
    return "\n".join("> " + line for line in text.split("\n"))


def main():
    rng = random.Random(31)
    cases = []
    for index in range(100):
        markdown = "\n\n".join(block(rng) for _ in range(80 if index == 99 else rng.randint(1, 8)))
        cases.append({"event": {"markdown": markdown}, "status": 200, "body": {"html": expected(markdown)}})
    fixture.keep("render", cases)


main()
