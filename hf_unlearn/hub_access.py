"""Faults of the Hub in one sentence with the cure, and waiting when it asks for it."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)
from huggingface_hub.utils import (
    get_session,
    hf_raise_for_status,
    httpx,
    parse_ratelimit_headers,
    validate_repo_id,
)

from .errors import InputError

UNREACHABLE = (
    httpx.TransportError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RevisionResolutionError,
    ConnectionError,
)

LOG_IN = "log in again with `hf auth login`"

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

LONGEST_WAIT = 60  # seconds in all that one upload waits because of rate limits

USUAL_WAIT = 10  # seconds, when the Hub does not say


def is_repository_name(name: str) -> bool:
    """Whether a repository on the Hub can have this name, so that it can stand in an address."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.isascii()


def hub_trouble(error: BaseException) -> BaseException | None:
    """The exception of a Hub client that lies behind an error, None when the Hub has nothing to do with it.

    What transformers, PEFT and datasets raise names their guess at what is wrong; what the Hub said is in the chain.
    """
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    # What the Hub answered says more than what the client made of it; a missing file is for the caller to judge.
    for kind in (HfHubHTTPError, (HFValidationError, LocalTokenNotFoundError, *UNREACHABLE)):
        for found in chain:
            if isinstance(found, kind) and not isinstance(found, RemoteEntryNotFoundError):
                return found
    return None


def hub_status(trouble: BaseException) -> int | None:
    """The HTTP status that a Hub client met, None when there was no answer."""
    if isinstance(trouble, HfHubHTTPError):
        return trouble.response.status_code
    # Xet, the default way to upload, tells it in the text only.
    found = re.search(r"\((\d{3}) ", str(trouble)) if isinstance(trouble, ConnectionError) else None
    return int(found[1]) if found else None


def seconds_to_wait(trouble: BaseException) -> int | None:
    """How long the Hub asks to wait after a 429, None when it does not say."""
    if not isinstance(trouble, HfHubHTTPError):
        return None
    limit = parse_ratelimit_headers(trouble.response.headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds
    told = trouble.response.headers.get("Retry-After", "")
    return int(told) if told.isdigit() else None


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn the cause of a failed load into one sentence, whose subject is ``what`` is loaded."""
    with _one_sentence(lambda trouble: _not_loaded(trouble, what)):
        yield


@contextmanager
def publishing_errors(repo_id: str, folder: Path, flag: str = "--hub_model_id") -> Iterator[None]:
    """Turn the cause of a failed upload from a folder into one sentence; the flag names the repository."""
    push = f"`hf-unlearn push {folder} {flag} {repo_id}`"
    again = f" The result is kept in {folder}: run the same command again, or {push}."
    with _one_sentence(lambda trouble: _refused(trouble, "publish to", repo_id) + again):
        yield


@contextmanager
def erasing_errors(repo_id: str) -> Iterator[None]:
    """Turn the cause of a failed erasure into one sentence."""
    again = " What was done stays done: run the same command again, and it continues from there."
    with _one_sentence(lambda trouble: _refused(trouble, "erase in", repo_id) + again):
        yield


@contextmanager
def _one_sentence(sentence: Callable[[BaseException], str]) -> Iterator[None]:
    try:
        yield
    except (InputError, BrokenPipeError):
        # Clients of the Hub wrap theirs, so that a plain broken pipe is that of the output.
        raise
    except Exception as error:
        trouble = hub_trouble(error)
        if trouble is None:
            raise
        raise InputError(sentence(trouble)) from None


def _not_loaded(trouble: BaseException, what: str) -> str:
    status = hub_status(trouble)
    if isinstance(trouble, GatedRepoError):
        return f"{what} is gated: ask for access on its page and log in with `hf auth login`."
    if isinstance(trouble, RevisionNotFoundError):
        return f"{what} has no such revision; name a branch, tag or commit that exists."
    if status == 401 and isinstance(trouble, HfHubHTTPError) and "Authorization" in trouble.response.request.headers:
        return f"{what} was not loaded: the Hub does not accept the token (401), it may have expired; {LOG_IN}."
    if isinstance(trouble, RepositoryNotFoundError | HFValidationError):
        return (
            f"{what} is neither a folder or file here nor a repository on the Hub that you may read; "
            "check its name, or log in with `hf auth login` if it is private."
        )
    if status == 404:
        return f"{what} is neither a folder or file here nor a repository on the Hub."
    if status is None:
        return f"{what} is not on this machine and the Hub cannot be reached."
    cures = {401: LOG_IN, 403: f"the token may not read it, {LOG_IN}", 429: _too_many(trouble)}
    return f"{what} was not loaded: the Hub answered {status}; {cures.get(status, 'try again later')}."


REFUSALS = {
    400: "it does not accept a file, most likely the metadata on top of README.md; correct them",
    401: f"the token is not valid or has expired; {LOG_IN}",
    403: "the token may not write there; use a token with the role write, or a repository of your own",
    404: "it is not there, or the token may not see it; check the name and type, or log in with `hf auth login`",
    409: "another change to it is going on, or the name is taken; try again, or choose another name",
    412: "somebody else pushed to it meanwhile; look at what is there before you try again",
}


def _refused(trouble: BaseException, deed: str, repo_id: str) -> str:
    if isinstance(trouble, HFValidationError):
        return f"{repo_id!r} is not a possible name of a repository: {trouble}"
    if isinstance(trouble, LocalTokenNotFoundError):
        return f"To {deed} {repo_id} needs a token; log in with `hf auth login`."
    if isinstance(trouble, RevisionNotFoundError):
        return f"{repo_id} has no such branch; name one that exists with --hub_revision."
    status = hub_status(trouble)
    if status is None:
        return f"It was not possible to {deed} {repo_id}: the Hub cannot be reached ({type(trouble).__name__})."
    cure = _too_many(trouble) if status == 429 else REFUSALS.get(status, "try again later")
    return f"The Hub refused to {deed} {repo_id} ({status}): {cure}."


def _too_many(trouble: BaseException) -> str:
    seconds = seconds_to_wait(trouble)
    return f"too many requests; try again {'later' if seconds is None else f'in {seconds} seconds'}"


class Patience:
    """Repeats a step that met too many requests (429), after the wait that the Hub asks for.

    Args:
        seconds: to wait in all.
    """

    def __init__(self, seconds: int = LONGEST_WAIT) -> None:
        self.left = seconds

    def __call__(self, step: Callable[[], Result]) -> Result:
        while True:
            try:
                with _limits_at_once():
                    return step()
            except Exception as error:
                trouble = hub_trouble(error)
                if not isinstance(trouble, HfHubHTTPError) or trouble.response.status_code != 429:
                    raise
                told = seconds_to_wait(trouble)
                wait = USUAL_WAIT if told is None else max(told, 1)
                if wait > self.left:
                    raise
            logger.warning("The Hub has too many requests; going on in %d seconds.", wait)
            time.sleep(wait)
            self.left -= wait


@contextmanager
def _limits_at_once() -> Iterator[None]:
    """Raise a 429 at once, because the client itself would wait five times, each time as long as the Hub says."""

    def tell(response: httpx.Response) -> None:
        if response.status_code == 429:
            hf_raise_for_status(response)

    client = get_session()
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "response": [*hooks["response"], tell]}
    try:
        yield
    finally:
        client.event_hooks = hooks
