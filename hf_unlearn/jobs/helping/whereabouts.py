"""``hf-unlearn whereabouts``: which of my models were trained on these records, and which had to forget them."""

import json
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from huggingface_hub import HfApi, resolve_revision

from ...data.arrow_tables import listed
from ...data.canonical import ANY_NUMBER, NUMBER, number_text, texts_of
from ...data.request.digests import ForgottenDigests, digest_each, key_check, key_path, load_digest_key, plain_kinds
from ...data.request.id_files import read_ids
from ...data.request.records import value_text
from ...data.request.row_filter import FILTER_FILE, family_of, forms_in, load_row_filter
from ...errors import InputError
from ...files import require_ours, written_privately
from ...hub_access import hub_errors, is_repository_name
from ...lifecycle.erase_plan import ERASABLE
from ...models.location import ModelSource, fetch_files, file_beside
from ...models.training_record import RECORD_FILE, load_record
from ...publishing.ledger import LEDGER_FILE, Ledger, ledger_text
from ...sharding.layout import SHARDING_FILE, Sharding, load_sharding
from ..console import plain, table, terminal

TRAINED, FORGOTTEN, ABSENT, UNKNOWN = STATES = ("trained", "forgotten", "not in it", "unknown")
# Of several models the first of these that one of them says.
STRONGEST = (TRAINED, UNKNOWN, FORGOTTEN, ABSENT)

TELLING = (FILTER_FILE, LEDGER_FILE, SHARDING_FILE)
FILES = (*TELLING, RECORD_FILE)
MODEL_FILES = (*FILES, "config.json", "adapter_config.json")
MARK = '"asked_about"'


@dataclass(frozen=True)
class Answer:
    """What one model says of the ids.

    Attributes:
        model: its name.
        states: of each id, one of :data:`STATES`.
        verdicts: of the runs that forgot ids, by id; None for the others.
        notes: in sentences, why something is unknown or what is to be known beside the states.
        silent: whether it has nothing beside it that could tell of its rows.
    """

    model: str
    states: list[str]
    verdicts: list[str | None]
    notes: list[str] = field(default_factory=list)
    silent: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """How many ids are in each state."""
        found = Counter(self.states)
        return {state: found[state] for state in STATES}


def whereabouts(
    *, ids: str, column: str, models: list[str], digest_key_file: str | None = None, output: Path | None = None
) -> None:
    """Show for each model how many of the ids it was trained on, had to forget, or never had; no id is printed.

    Args:
        ids: a file of ids, or ``-`` for standard input.
        column: of the data that holds them.
        models: each a folder, a Hub id, an owner on the Hub, or a file of these, one a line.
        digest_key_file: the key that the models were trained with.
        output: a private file for the state of each id, by its line in ``ids``.

    Raises:
        InputError: something cannot be read or found.
    """
    if output is not None:
        require_ours(output, "--output", MARK)
    values, lines = _values(ids, column)
    place = key_path(digest_key_file)
    if not place.exists():
        raise InputError(f"The digest key {place} is not there; name the key of the models with --digest_key_file.")
    search = Search(column, values, load_digest_key(place))
    answers = [search.named(name, listed_by_hub=of_owner) for name, of_owner in _models(models)]
    _show(answers, column)
    if output is not None:
        _write(output, answers, column, lines)


# What is asked


def _values(ids: str, column: str) -> tuple[list[str], list[int]]:
    """The distinct ids as texts, and the line on which each stands first."""
    given: tuple[Any, ...]
    if ids == "-":
        try:
            found = [(line, number) for number, line in enumerate(sys.stdin.read().split("\n"), 1) if line.strip()]
        except UnicodeDecodeError:
            raise InputError("Standard input is not UTF-8 text; save the ids as UTF-8.") from None
        if not found:
            raise InputError("There are no ids on standard input; give one a line.")
        given, lines = zip(*found, strict=True)
    else:
        try:
            there = Path(ids).is_file()
        except OSError:
            there = False
        if not there:
            # It may be an id.
            raise InputError("--ids names no file; write the ids into one, one a line, or give - for standard input.")
        given, lines = read_ids(Path(ids), column)
    first: dict[str, int] = {}
    for value, line in zip(given, lines, strict=True):
        first.setdefault(value if isinstance(value, str) else _text(value), line)
    try:
        "".join(first).encode()
    except UnicodeEncodeError:
        # JSON can write half a character.
        raise InputError("Some ids are no Unicode text, so no data has them; correct these.") from None
    return list(first), list(first.values())


def _text(value: Any) -> str:
    """A number of a JSON file as columns have it; Arrow has none so large as Python."""
    return str(value) if isinstance(value, int) else texts_of(pa.array([value])).to_pylist()[0]


def _models(words: list[str], *, from_file: str | None = None) -> list[tuple[str, bool]]:
    """The names of the models, each with whether it was found among those of an owner."""
    found: dict[str, bool] = {}
    for word in words:
        place = Path(word)
        try:
            folder, file = place.is_dir(), place.is_file() and from_file is None
        except OSError as error:
            raise InputError(f"The model {word[:80]!r} cannot be looked up: {error.strerror}.") from None
        if file:
            try:
                names = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                raise InputError(f"Cannot read the names of models in {place}: {why}.") from None
            if not names:
                raise InputError(f"{place} names no model; write one a line.")
            for name, of_owner in _models(names, from_file=word):
                found.setdefault(name, of_owner)
        elif folder or ("/" in word and is_repository_name(word)):
            found[word] = False
        elif is_repository_name(word):
            with hub_errors(f"The owner {word!r}"):
                repos = sorted(model.id for model in HfApi().list_models(author=word))
            if not repos:
                raise InputError(f"There is no folder {word}, and no model of an owner {word} on the Hub.")
            for name in repos:
                found.setdefault(name, True)
        else:
            where = f", as {from_file} says" if from_file is not None else ""
            raise InputError(f"There is no folder, file or model {word[:80]!r}{where}; correct the name.")
    return list(found.items())


# What a model says


class Search:
    """Asks models for ids.

    Args:
        column: that holds the ids.
        values: the distinct ids, as people write them.
        key: the owner's.
    """

    def __init__(self, column: str, values: list[str], key: bytes):
        self.column, self.values, self.key = column, values, key
        self._digests: dict[str, list[list[str]]] = {}
        self._known: dict[tuple[str, str | None], Answer] = {}

    def named(self, name: str, *, listed_by_hub: bool = False) -> Answer:
        """The answer of a model by its name; one that the Hub lists and nobody may read says that it is unknown."""
        try:
            return self.ask(found_model(name))
        except InputError as error:
            if not listed_by_hub:
                raise
            nothing = [None] * len(self.values)
            return Answer(name, [UNKNOWN] * len(self.values), list(nothing), [str(error)])

    def ask(self, source: ModelSource) -> Answer:
        """The answer of a model, with what the model that it was trained from says."""
        place = (source.name, source.revision)
        if place not in self._known:
            own = self._own(source)
            # A model that names itself ends here.
            self._known[place] = own
            self._known[place] = self._with_base(own, source)
        return self._known[place]

    def _own(self, source: ModelSource) -> Answer:
        """What lies beside a model says, and not what lies beside its base."""
        trained, readable, why = self._trained(source)
        verdicts, why_ledger = self._forgotten(source)
        states = []
        for saw, read, verdict in zip(trained, readable, verdicts, strict=True):
            if saw:
                states.append(TRAINED)
            elif verdict is not None:
                states.append(FORGOTTEN)
            else:
                states.append(ABSENT if read and not why_ledger else UNKNOWN)
        notes = [note for note in (why, why_ledger) if note]
        silent = not any(file_beside(source, name) for name in TELLING)
        return Answer(source.name, states, verdicts, notes, silent)

    def _trained(self, source: ModelSource) -> tuple[np.ndarray, np.ndarray, str]:
        """Which ids the model was trained on, of which that can be told, and why not of the others."""
        none, every = np.zeros(len(self.values), bool), np.ones(len(self.values), bool)
        if (sharding := load_sharding(source)) is not None:
            return self._in_shards(sharding)
        if (path := file_beside(source, FILTER_FILE)) is None:
            return none, none, f"It has no {FILTER_FILE}."
        if (opened := load_row_filter(path).open(self.key)) is None:
            return none, none, f"Its {FILTER_FILE} was made with another key."
        if (family := opened.family(self.column)) is None:
            return none, none, f"Its {FILTER_FILE} has no such column."
        forms = [forms_in(family, value) for value in self.values]
        flat = [form for found in forms for form in found or []]
        owner = np.repeat(np.arange(len(forms)), [len(found or []) for found in forms])
        trained, readable = none.copy(), np.array([found is not None for found in forms], bool)
        trained[owner[opened.holds(self.column, flat)]] = True
        why = "" if readable.all() else f"Its column holds dates, and {np.count_nonzero(~readable):,} ids are none."
        return trained, readable if why else every, why

    def _in_shards(self, sharding: Sharding) -> tuple[np.ndarray, np.ndarray, str]:
        none, every = np.zeros(len(self.values), bool), np.ones(len(self.values), bool)
        if sharding.key_check != key_check(self.key):
            return none, none, f"Its {SHARDING_FILE} was made with another key."
        if sharding.column != self.column:
            return none, none, f"Its {SHARDING_FILE} knows the owners by {listed([sharding.column])} alone."
        owners = set(sharding.shard_of)
        return np.array([bool(owners & set(found)) for found in self._digests_in("")], bool), every, ""

    def _forgotten(self, source: ModelSource) -> tuple[list[str | None], str]:
        """The verdict of the last run that was asked to forget each id, and why that cannot be told."""
        found: list[str | None] = [None] * len(self.values)
        if (path := file_beside(source, LEDGER_FILE)) is None:
            return found, ""
        ledger = Ledger.read(ledger_text(path), f"beside {source.public_name!r}")
        if any(run.key_check != key_check(self.key) for run in ledger.runs):
            return found, f"Its {LEDGER_FILE} was made with another key."
        ledger.check_seals(self.key)
        named: dict[str, dict[str, str]] = {}
        for run in ledger.runs:
            for part in run.forgotten:
                if not part.whole_rows and part.columns == [self.column]:
                    named.setdefault(_family(part), {}).update(dict.fromkeys(part.digests, run.verdict))
        for family, verdicts in named.items():
            for i, digests in enumerate(self._digests_in(family)):
                found[i] = next((verdicts[digest] for digest in digests if digest in verdicts), found[i])
        return found, ""

    def _digests_in(self, family: str) -> list[list[str]]:
        """The digests that a ledger may have of each id; an empty family is of one who does not say what it was."""
        if family not in self._digests:
            forms = [forms_in(family, value) or [] if family else _old_forms(value) for value in self.values]
            self._digests[family] = [
                digest_each(self.key, [value_text(self.column, form) for form in found]) for found in forms
            ]
        return self._digests[family]

    def _with_base(self, own: Answer, source: ModelSource) -> Answer:
        """A model knows what the model knew that it was trained from."""
        record = load_record(source)
        if record is None or record.base_model is None:
            return own
        try:
            base = self.ask(found_model(record.base_model, record.base_revision))
        except InputError:
            return replace(own, notes=[*own.notes, f"Its base {record.base_model} cannot be looked into."])
        if base.silent:
            return own
        states, verdicts, taken = [*own.states], [*own.verdicts], Counter[str]()
        for i, (mine, its) in enumerate(zip(own.states, base.states, strict=True)):
            if (its == TRAINED and mine != TRAINED) or (its in (FORGOTTEN, UNKNOWN) and mine == ABSENT):
                states[i], verdicts[i] = its, base.verdicts[i]
                taken[its] += 1
        notes = [f"{count:,} {state} by its base {base.model}." for state, count in taken.items()]
        return replace(own, states=states, verdicts=verdicts, notes=[*own.notes, *notes])


def found_model(name: str, revision: str | None = None) -> ModelSource:
    """Find a model with the files that tell of its rows alone; raises InputError where it is not there."""
    if Path(name).is_dir():
        source = ModelSource(name)
        if not any(file_beside(source, file) for file in MODEL_FILES):
            raise InputError(f"There is no model in the folder {name}; name another.")
        return source
    with hub_errors(f"The model {name!r}"):
        commit = resolve_revision(name, revision=revision).resolved
        fetch_files(name, commit, FILES)
    return ModelSource(name, commit)


def _family(part: ForgottenDigests) -> str:
    """The family of the column that a part of a ledger named ids of, empty where the ledger is from before."""
    return "" if part.types is None else family_of(plain_kinds(part.types)[0]) or "text"


def _old_forms(value: str) -> list[str]:
    number = number_text(value) if NUMBER.fullmatch(value) and ANY_NUMBER.fullmatch(value) else value
    return list(dict.fromkeys([value, number, f"{number}.0"]))


# What is told


def _show(answers: list[Answer], column: str) -> None:
    out = terminal()
    asked = len(answers[0].states)
    shown = table(
        f"{asked:,} ids of the column {plain(listed([column]))}", {"model": "text", **dict.fromkeys(STATES, "number")}
    )
    for answer in answers:
        shown.add_row(plain(answer.model), *_cells(answer.states))
    if len(answers) > 1:
        shown.add_row("all of them", *_cells(_together(answers)))
    out.print(shown)
    for answer in answers:
        for note in (*answer.notes, *_doubts(answer)):
            out.print(f"{plain(answer.model)}: {plain(note)}")


def _doubts(answer: Answer) -> list[str]:
    """What the verdicts say of ids that were forgotten, where they do not say that they are gone."""
    pairs = zip(answer.states, answer.verdicts, strict=True)
    found = Counter(verdict for state, verdict in pairs if state == FORGOTTEN and verdict not in ERASABLE)
    return [f"The run that forgot {count:,} ended {verdict}: it may know them." for verdict, count in found.items()]


def _cells(states: list[str]) -> list[str]:
    found = Counter(states)
    return [f"{found[state]:,}" for state in STATES]


def _together(answers: list[Answer]) -> list[str]:
    columns = zip(*(answer.states for answer in answers), strict=True)
    return [min(states, key=STRONGEST.index) for states in columns]


def _write(path: Path, answers: list[Answer], column: str, lines: list[int]) -> None:
    """Write the state of each id into a file that only its owner can read; ids themselves stay out of it."""
    document = {
        "asked_about": {"column": column, "ids": len(lines)},
        "models": [{"model": one.model, "counts": one.counts, "notes": one.notes} for one in answers],
        "rows": [
            {
                "line": line,
                "states": [answer.states[i] for answer in answers],
                "verdicts": [answer.verdicts[i] for answer in answers],
            }
            for i, line in enumerate(lines)
        ],
    }
    try:
        with written_privately(path) as file:
            json.dump(document, file, indent=1)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be written: {error.strerror}.") from None
    terminal().print(f"The states by line are in {plain(path)}, which only you can read.")
