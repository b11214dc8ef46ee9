"""What is said of the model from before, by the card, by ``push``, by ``erase`` and to owners of derived models."""

from .errors import in_one_line

# Chen et al., CCS 2021, attack both versions of a model that was retrained; Du et al., ICML 2025, both versions of a
# language model (TULA), and there recover texts as well.
BEFORE_AND_AFTER = (
    "Whoever holds the models from before and after can compare them and find out what was removed, also where the "
    "unlearning is exact (Chen et al. 2021, arXiv:2005.02205; for language models Du et al. 2024, arXiv:2406.13348)."
)


def new_version(unlearned: str) -> str:
    """The line in the metadata of a model's card for which the Hub shows, on its page, a link to a newer model."""
    return f"new_version: {in_one_line(unlearned)}"
