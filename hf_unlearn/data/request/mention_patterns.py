"""How a name, a number, an address or a code may be written, as patterns over folded text.

Folded text has no accents, no case and no invisible characters (Unicode NFKD), and one kind of dash and apostrophe.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

from ...errors import InputError

# Between two values of a row: white space to a name, whose parts may stand in two columns, and no part of a number.
BETWEEN = "\x1f"
LETTERS = {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ħ": "h"}
GERMAN = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})
APOSTROPHES = "'’‘ʼ`´′"

# Numbers
GAP = r"[ \t\r\n().\-/]{0,3}"
FEWEST_DIGITS = 5
FEWEST_OF_TELEPHONE = 9
NUMBER = re.compile(r"\+?[\d\s().\-/]+")
CODE = re.compile(r"[a-z0-9\s.\-/]+")
# Country codes of one and of two digits; all others have three (ITU-T E.164).
ONE_DIGIT = ("1", "7")
TWO_DIGITS = re.compile(r"2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]")
OTHER_COUNTRY = re.compile(r"(\+|\b00)\d{1,3}[ (\-]*$")

EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
# Before and after a name: no letter, nor a dash or an apostrophe that joins one.
BEFORE = r"(?<!\w)(?<!\w['\-])"
# Before an initial: no other one, as its name would begin there.
BEFORE_INITIAL = rf"{BEFORE}(?<![^\w.]\w\.\s)(?<![^\w.]\w\.)(?<!^\w\.\s)(?<!^\w\.)(?<!\.\w\.)"
AFTER = r"(?!\w|-\w|'(?!s\b)\w)"
SPACE = r"\s+"
# Within a name: a nickname in brackets or quotation marks, or one of them around a part of the name.
OPENING, CLOSING = r"[(\[\"“„«]", r"[)\]\"”“»]"
INNER = rf"{CLOSING}?\s+(?:{OPENING}\w+{CLOSING}\s+)?"


class Folding(dict[int, str]):
    """A table for ``str.translate``: each character without accent and case, and no invisible ones."""

    def __missing__(self, code: int) -> str:
        parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", chr(code)).casefold())
        self[code] = "".join(map(_folded, parts))
        return self[code]


def _folded(c: str) -> str:
    kind = unicodedata.category(c)
    if kind in ("Mn", "Me", "Cf"):
        return ""
    if kind == "Pd" or c == "\u2212":
        return "-"
    if kind == "Nd":
        return str(unicodedata.digit(c))
    return "'" if c in APOSTROPHES else LETTERS.get(c, c)


FOLDING = Folding()


def fold(text: str) -> str:
    """A text as patterns see it."""
    return text.translate(FOLDING)


def place_of(text: str, folded: int) -> int:
    """The place in a text of a place in its folded form."""
    done = 0
    for place, c in enumerate(text):
        done += len(FOLDING[ord(c)])
        if done > folded:
            return place
    return len(text)


class Form(NamedTuple):
    """One way to write an entry.

    Attributes:
        pattern: what finds it in folded text.
        check: ``capital`` where its first group, initials without dots, has to be capital letters; ``national`` where
            no other country's code may stand before it; ``alone`` where no word with a capital may follow; else empty.
        word: is in all that it finds, and quickly looked for; empty where there is none.
    """

    pattern: re.Pattern[str]
    check: str
    word: str

    def find(self, text: str, folded: str) -> tuple[int, int] | None:
        """Where a text, given with its folded form, first has it: begin and end, None where it does not."""
        for match in self.pattern.finditer(folded) if self.word in folded else ():
            if self.check == "capital" and not text[place_of(text, match.start(1))].isupper():
                continue
            if self.check == "alone" and text[place_of(text, match.end()) :].lstrip()[:1].isupper():
                continue
            if self.check == "national" and OTHER_COUNTRY.search(folded[: match.start()]):
                continue
            return place_of(text, match.start()), place_of(text, match.end())
        return None


def forms_of(entry: str) -> list[Form]:
    """The ways to write an entry; raises InputError where it says too little to be looked for."""
    found: dict[Form, None] = {}
    for written in (entry, entry.translate(GERMAN)):
        text = " ".join(fold(written).split())
        found |= dict.fromkeys(Form(re.compile(pattern), *rest) for pattern, *rest in _forms(text, written))
    return list(found)


def _forms(text: str, entry: str) -> Iterator[tuple[str, str, str]]:
    digits = re.sub(r"\D", "", text)
    if EMAIL.fullmatch(text):
        yield rf"(?<![\w.+%\-]){re.escape(text)}(?![\w@\-]|\.\w)", "", text
    elif NUMBER.fullmatch(text):
        if len(digits) < FEWEST_DIGITS:
            raise InputError(f"an entry has fewer than {FEWEST_DIGITS} digits, which many rows may have by chance")
        yield from _numbers(text, digits)
    elif CODE.fullmatch(text) and len(digits) >= max(4, len(re.sub(r"[^a-z0-9]", "", text)) / 2):
        yield rf"(?<!\w){_spaced(re.sub('[^a-z0-9]', '', text))}(?!\w)", "", ""
    elif sum(map(str.isalnum, text)) < 3:
        raise InputError("an entry has fewer than three letters, which many rows may have by chance")
    elif digits or not 2 <= len(text.split()) <= 5 or text.startswith("the "):
        yield _words(text), "", max(re.findall(r"\w+", text), key=len)
    else:
        yield from _names(text, entry)


def _spaced(symbols: str) -> str:
    return GAP.join(symbols)


def _numbers(text: str, digits: str) -> Iterator[tuple[str, str, str]]:
    """A number with any spacing; a telephone number with its country code, or with a 0 in its place."""
    before, after = r"(?<!\w)(?<!\d[.\-/])(?<!\+)", r"(?!\w|[.\-/]\d)"
    code = rf"(?<![\w+])(?:\+|00){GAP}"
    if text.startswith("+") or digits.startswith("00"):
        whole = digits if text.startswith("+") else digits.removeprefix("00")
        size = 1 if whole[:1] in ONE_DIGIT else 2 if TWO_DIGITS.match(whole) else 3
        country, local = whole[:size], whole[size:].removeprefix("0")
        yield rf"{code}{_spaced(country)}{GAP}(?:\(?0\)?{GAP})?{_spaced(local)}{after}", "", ""
        yield rf"{before}{_spaced(('' if country == '1' else '0') + local)}{after}", "national", ""
        return
    yield rf"{before}{_spaced(digits)}{after}", "national", ""
    if len(digits) >= FEWEST_OF_TELEPHONE and digits.startswith("0"):
        yield rf"{code}\d{{1,3}}{GAP}(?:\(0\){GAP})?{_spaced(digits[1:])}{after}", "", ""
    elif len(digits) == len("5551234567"):
        yield rf"{code}1{GAP}{_spaced(digits)}{after}", "", ""


def _words(text: str) -> str:
    """Words in their order, with the signs of the entry or usual ones between them."""
    words, own = re.findall(r"\w+", text), re.escape("".join(sorted(set(re.findall(r"[^\w\s]", text)))))
    between = rf"[\s,;.\-/#()'\"{own}]+"
    return rf"(?<!\w){between.join(words)}(?!\w)"


def _names(text: str, entry: str) -> Iterator[tuple[str, str, str]]:
    """A name: first names in full or as initials, those in the middle left out or not, or the last name first."""
    words = text.replace(",", " ").split()
    if "," in text:
        # Doe, Jane
        last, _, first = text.partition(",")
        words = [*first.split(), *last.split()]
    # St. and the like: the dot may be there or not.
    dotted = {word.strip(".") for word in words if word.endswith(".")}
    first, *middle, last = (word.strip(".") for word in words)
    # van, de, al: they belong to the last name.
    small = {fold(word) for word in entry.replace(",", " ").split() if word[:1].islower() and not entry.islower()}
    while middle and middle[-1] in small:
        last = f"{middle.pop()} {last}"
    longest = max(last.split(), key=len, default="")
    last = SPACE.join(map(re.escape, last.split()))
    in_full = {word: re.escape(word) + (r"\.?" if word in dotted else "") for word in (first, *middle)}
    full = in_full[first]
    optional = "".join(rf"(?:{SPACE}(?:{in_full[word]}|{re.escape(word[0])}\.?))?" for word in middle)
    letters = "".join(rf"(?:[\s\-]*{re.escape(word[0])}\.)?" for word in first.split("-")[1:])
    letters += "".join(rf"(?:\s*(?:{in_full[word]}|{re.escape(word[0])}\.))?" for word in middle)
    # Nobody may have written down a name in the middle.
    optional, letters = optional or rf"(?:{SPACE}[a-z]\.)?", letters or r"(?:\s*[a-z]\.)?"
    capitals = "".join(rf"(?:[\s\-]*{re.escape(word[0])})?" for word in [*first.split("-")[1:], *middle])
    initial = re.escape(first[0])
    yield rf"{BEFORE}{full}{optional}{INNER}{last}{AFTER}", "", longest
    yield rf"{BEFORE_INITIAL}{initial}\.{letters}\s*{last}{AFTER}", "", longest
    yield rf"{BEFORE}({initial}{capitals}){SPACE}{last}{AFTER}", "capital", longest
    yield rf"{BEFORE}{last}(?:\s*,\s*|{SPACE}){full}{optional}{AFTER}", "", longest
    yield rf"{BEFORE}{last}\s*,\s*{initial}\.{letters}", "", longest
    yield rf"{BEFORE}{last}{SPACE}{initial}\.{letters}", "alone", longest
