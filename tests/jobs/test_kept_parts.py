"""Parts of a long command that are kept until its end."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from hf_unlearn.evaluation.statistics import Estimate
from hf_unlearn.files import typed
from hf_unlearn.jobs.helping.kept_parts import KeptParts


@dataclass(frozen=True)
class Curve:
    points: tuple[Estimate, ...]
    name: str = ""


FOUND = Curve((Estimate(1 / 3, 0.1, 0.7, 9), Estimate(2.0, 1.0, 3.0, 9)), "curve")


def made_anew() -> Curve:
    raise AssertionError("it is there already")


def test_a_finished_part_is_read_again_as_long_as_it_rests_on_the_same(tmp_path: Path) -> None:
    parts = KeptParts(tmp_path / "finished", "settings").of("data", "model")
    assert parts.get("curve", Curve, lambda: FOUND) == FOUND
    assert parts.get("curve", Curve | None, made_anew) == FOUND
    assert parts.get("nothing", Curve | None, lambda: None) is None
    assert parts.get("nothing", Curve | None, made_anew) is None
    for other in (parts.of("more"), KeptParts(parts.folder, "settings").of("model", "data")):
        with pytest.raises(AssertionError, match="there already"):
            other.get("curve", Curve, made_anew)
    place = parts.folder / "curve.json"
    place.write_text(place.read_text()[:-20])
    with pytest.raises(AssertionError, match="there already"):
        parts.get("curve", Curve, made_anew)


def test_what_nothing_identifies_is_not_kept(tmp_path: Path) -> None:
    parts = KeptParts(tmp_path / "finished", "settings").of("data", None)
    assert parts.get("curve", Curve, lambda: FOUND) == FOUND
    assert parts.of("more").get("curve", Curve, lambda: FOUND) == FOUND
    assert not parts.folder.exists()


def test_a_tuple_of_one_type_is_read() -> None:
    assert typed(tuple[int, ...], [1, 2]) == (1, 2)
    with pytest.raises(ValueError, match="does not fit"):
        typed(tuple[int, ...], [1, "2"])
