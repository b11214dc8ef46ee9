"""``hf-unlearn ledger``: check a model's ledger, show it, prove that an id was forgotten, and have it stamped."""

from pathlib import Path

from huggingface_hub import HfApi

from ..data.arrow_tables import listed
from ..data.canonical import NUMBER, WHOLE, is_number, number_text
from ..data.request.digests import ForgottenDigests, digest_each, known_key
from ..data.request.records import value_text
from ..errors import InputError, in_one_line
from ..evaluation.report import REPORT_FILE
from ..evaluation.wording import attempt_words, beside_word
from ..files import require_file, written_whole
from ..hub_access import hub_errors
from ..lifecycle.erase_plan import ERASABLE
from ..models.location import ModelSource, file_beside, locate
from ..publishing.ledger import LEDGER_FILE, Ledger, Unlearned
from ..publishing.ledger_of_model import check_base, ledger_key, ledger_of
from ..publishing.time_stamp import STAMP_FILE, ask_for_stamp, check_stamp, read_certificates
from .console import COLOURS, plain, table, terminal


def verify(
    place: str,
    revision: str | None,
    digest_key_file: str | None,
    authority_certificate: Path | None,
    time_stamp: Path | None,
) -> None:
    """Check a ledger, and say what was checked; raises InputError where it was changed, or there is none."""
    source, ledger = _found(place, revision)
    key = _key_at_hand(digest_key_file, ledger)
    print(f"The chain of {len(ledger.events):,} lines is intact: no line was changed, dropped or moved.")
    if key is None:
        print("The owner's key is not here, and only with it can one tell whether the whole chain was written anew.")
    elif ledger.unsealed:
        print(
            f"The first {ledger.unsealed:,} of {len(ledger.runs):,} runs are from before there were seals, so anybody "
            "could have written them. The next run seals them with the owner's key."
        )
    else:
        print(f"All {len(ledger.runs):,} runs were written with the owner's key.")
    if ledger.runs:
        last = ledger.runs[-1]
        number = ledger.events.index(last) + 1
        files = f"{len(last.weights):,} file{'s' if len(last.weights) != 1 else ''}"
        where = "read here" if source.is_local else "as the Hub states it, not downloaded"
        print(f"{REPORT_FILE} is the one that line {number} names, and agrees with it.")
        print(f"The weights are those that line {number} names ({files}, {where}).")
        if last.files is not None:
            print(f"So are the {len(last.files):,} other files that are loaded with them.")
        else:
            print("The line is from before the other files that are loaded with them were noted.")
        if check_base(source):
            print("The model under the adapter has the weights that its report was made with.")
    _verify_time(source, ledger, authority_certificate, time_stamp)


def _verify_time(source: ModelSource, ledger: Ledger, certificate: Path | None, kept: Path | None) -> None:
    """Check the time stamp of a ledger, and say what it shows; raises InputError where it is of another state."""
    path = kept if kept is not None else file_beside(source, STAMP_FILE)
    if path is None:
        if certificate is not None:
            raise InputError(
                f"There is no {STAMP_FILE} beside the ledger; name one with --time_stamp, or make one with "
                "`hf-unlearn ledger stamp`."
            )
        print("No time stamp is here, and only one that was kept shows whether all was put back to an earlier state.")
        return
    certificates = None if certificate is None else read_certificates(certificate)
    stamp = check_stamp(_read_stamp(path), ledger, certificates)
    later = len(ledger.events) - stamp.line
    signer = "An authority" if certificates is not None else "Somebody, whose signature was not checked,"
    print(
        f"{signer} stamped line {stamp.line:,} of {len(ledger.events):,} at {stamp.time:%Y-%m-%d %H:%M:%S} UTC, so "
        "the ledger was not put back to before that."
    )
    if later:
        print(f"The {later:,} later line{'s have' if later > 1 else ' has'} no stamp.")
    if certificates is None:
        print("With --authority_certificate its signature is checked.")


def _read_stamp(path: Path) -> bytes:
    require_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"The time stamp {str(path)!r} cannot be read: {error.strerror}.") from None


def stamp(folder: Path, authority: str, authority_certificate: Path) -> None:
    """Have an authority stamp the last line of a ledger; raises InputError where it does not, and nothing changes."""
    source, ledger = _found(str(folder), None)
    if not source.is_local:
        raise InputError(f"{str(folder)!r} is no folder; stamp the ledger in the run's folder, and publish it again.")
    certificates = read_certificates(authority_certificate)
    path = folder / STAMP_FILE
    if path.exists():
        # It would be lost that the ledger was longer before.
        check_stamp(_read_stamp(path), ledger, None)
    content = ask_for_stamp(ledger, authority, certificates)
    time = check_stamp(content, ledger, certificates).time
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
    print(
        f"{plain(authority)} stamped line {len(ledger.events):,}, the last one, at {time:%Y-%m-%d %H:%M:%S} UTC: "
        f"{STAMP_FILE} is beside the ledger. Keep a copy elsewhere, for `hf-unlearn ledger verify --time_stamp`."
    )


def _key_at_hand(path: str | None, ledger: Ledger) -> bytes | None:
    """The owner's key; None where no file is named, and the usual one is not there or holds another key."""
    if path is None and known_key(None, [run.key_check for run in ledger.runs]) is None:
        return None
    return ledger_key(path, ledger)


def show(place: str, revision: str | None) -> None:
    """Show a ledger as a table."""
    source, ledger = _found(place, revision)
    columns = {
        "line": "number", "time": "word", "what": "text", "rows": "number", "ids": "number", "verdict": "text",
        "from": "text", "to": "text",
    }  # fmt: skip
    shown = table(f"The ledger of {plain(source.public_name)}", columns)
    results = _results(source, ledger)
    for number, event in enumerate(ledger.events, start=1):
        cells: tuple[str, ...]
        if isinstance(event, Unlearned):
            parent = f"{event.parent.name} {_short(event.parent.commit)}" if event.parent else ""
            verdict = f"[{COLOURS.get(event.verdict, 'default')}]{plain(event.verdict)}[/]{plain(_beside(event))}"
            tries = f", attempt {event.attempts.number:,}" if event.attempts else ""
            what, counts = f"unlearned: {event.method}{tries}", (f"{event.rows:,}", f"{event.ids:,}")
            cells = (*counts, verdict, plain(parent), _short(results[number - 1]))
        else:
            what = f"erased: {event.repo}"
            counted = ", ".join(f"{name} {count:,}" for name, count in event.counts.items())
            cells = ("", "", plain(counted))
        shown.add_row(str(number), plain(event.time), plain(what), *cells)
    terminal().print(shown)


def prove(place: str, revision: str | None, column: str, value: str, digest_key_file: str | None) -> int:
    """Say whether a request named an id, and when; the id is not printed.

    Returns:
        0 if the ledger has the id, 1 if not.

    Raises:
        InputError: the ledger has no ids of this column, or was written with another key.
    """
    _, ledger = _found(place, revision)
    key = ledger_key(digest_key_file, ledger)
    columns = {part.columns[0] for run in ledger.runs for part in run.forgotten if not part.whole_rows}
    if column not in columns:
        raise InputError(f"The ledger has no ids of a column {column!r}; it has those of {listed(sorted(columns))}.")
    for run in ledger.runs:
        for part in run.forgotten:
            digest = _digest(part, column, value, key)
            if digest is not None:
                number = ledger.events.index(run) + 1
                about = (
                    f"The run of {run.time} ({run.method}) kept it out of the training; its verdict: "
                    f"{run.verdict}{_beside(run)}."
                )
                tries = f" {attempt_words(run.attempts)}" if run.attempts else ""
                done = (
                    "Forgotten"
                    if run.verdict in ERASABLE
                    else f"Asked to be forgotten, and the run ended {run.verdict}"
                )
                print(f"{done}: line {number} of the ledger has its digest, {digest}. {in_one_line(about)}{tries}")
                return 0
    print("Not forgotten: no line of the ledger has its digest.")
    return 1


def _digest(part: ForgottenDigests, column: str, value: str, key: bytes) -> str | None:
    """The digest that a part of the ledger has of an id; None where it has none."""
    if part.columns != [column] or part.whole_rows:
        return None
    texts = [value]
    if part.types is None or is_number(part.types[0]):
        texts += [number_text(value)] if NUMBER.fullmatch(value) else []
    if part.types is None and WHOLE.fullmatch(value):
        texts.append(f"{value}.0")
    digests = digest_each(key, [value_text(column, text) for text in texts])
    return next((digest for digest in digests if digest in part.digests), None)


def _found(place: str, revision: str | None) -> tuple[ModelSource, Ledger]:
    source = locate(place, revision)
    ledger = ledger_of(source)
    if ledger is None:
        raise InputError(f"There is no {LEDGER_FILE} beside {place!r}; `hf-unlearn run` begins one.")
    return source, ledger


def _results(source: ModelSource, ledger: Ledger) -> list[str | None]:
    """The commit that each run led to: the parent of the next, and of the last the first that has its weights."""
    commits: list[str | None] = [None] * len(ledger.events)
    later = None if source.is_local or not ledger.runs else _first_with(source, ledger.runs[-1].weights)
    for i, event in reversed(list(enumerate(ledger.events))):
        if isinstance(event, Unlearned):
            commits[i] = later
            later = event.parent.commit if event.parent else None
    return commits


def _first_with(source: ModelSource, weights: dict[str, str]) -> str | None:
    """The commit on the Hub that brought these weights."""
    api = HfApi()
    first = None
    with hub_errors(f"The model {source.name!r}"):
        for commit in api.list_repo_commits(source.name, revision=source.revision):
            files = api.get_paths_info(source.name, list(weights), revision=commit.commit_id)
            found = {file.path: file.lfs.sha256 for file in files if file.lfs is not None}  # type: ignore[union-attr]
            if found != weights:
                break
            first = commit.commit_id
    return first


def _beside(run: Unlearned) -> str:
    return beside_word(run.verdict, run.margin, run.attacks or [], run.attack)


def _short(commit: str | None) -> str:
    return plain(commit[:8]) if commit else ""
