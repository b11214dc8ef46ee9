"""How often a router errs, which guesses whose adapter knows a text where nobody names an owner."""

from dataclasses import dataclass

from .statistics import Estimate


@dataclass(frozen=True)
class RouterRates:
    """How often a router is right, as shares of texts that it was asked without having seen them.

    The intervals take the texts of one owner as alike, so ``n`` counts owners.

    Attributes:
        own: of texts of a known owner, those that go to the owner's shard.
        wrong: those that go to another shard.
        nobody: those that go to none, so that what answers to the unknown answers.
        strangers: of texts of an owner whom no shard knows, those that go to a shard all the same.
    """

    own: Estimate
    wrong: Estimate
    nobody: Estimate
    strangers: Estimate


@dataclass(frozen=True)
class RouterEntry:
    """What a router does that is made from the texts of L, as nothing else may be after a deletion.

    Attributes:
        encoder: its sentence encoder, a Hub id or the name of a folder.
        rates: of the texts of L.
        forgotten: of texts of owners in S whom no adapter knows, those that go to a neighbour; None without such.
        unknown: what answers all others of these, ``base`` or ``vote``.
    """

    encoder: str
    rates: RouterRates
    forgotten: Estimate | None
    unknown: str

    @property
    def sentence(self) -> str:
        """The rates in words, with their 95 % intervals."""
        rates = self.rates
        known = (
            f"A router by {self.encoder} sends {_percent(rates.own)} of the texts of L to their own shard, "
            f"{_percent(rates.wrong)} to a wrong one and {_percent(rates.nobody)} to none."
        )
        if self.forgotten is None:
            return f"{known} The adapters know every owner in S."
        answer = {"base": "the base model", "vote": "the mean of all adapters"}[self.unknown]
        return (
            f"{known} Of texts of owners in S whom no adapter knows, {_percent(self.forgotten)} go to a neighbour, "
            f"and {answer} answers the others."
        )


def _percent(share: Estimate) -> str:
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]"
