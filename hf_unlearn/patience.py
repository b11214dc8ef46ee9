"""Waiting for a Hub that has too many requests, as long as it asks and not longer than a person would."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session, hf_raise_for_status, httpx

from .hub_errors import hub_trouble, seconds_to_wait

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

LONGEST_WAIT = 60  # seconds in all that one upload waits because of rate limits
USUAL_WAIT = 10  # seconds, when the Hub does not say


class Patience:
    """Does a step again that the Hub turned away for too many requests, after the wait it asks for.

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
    """Let a 429 through, which the client waits for five times as long as the Hub says, were it an hour."""

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
