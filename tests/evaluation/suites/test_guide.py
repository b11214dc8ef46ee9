"""The guide to the suites: its commands are such, though the data are not here."""

import re
import shlex
from pathlib import Path

from hf_unlearn.cli.flags import parse
from hf_unlearn.evaluation.benchmarks.suites.rwku import PROMPTS

GUIDE = Path(__file__).parents[3] / "recipes" / "guides" / "suites.md"


def test_every_command_of_the_guide_is_one() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines() if line.startswith("hf-unlearn")]
    named = {parse(line[1], line[2:])[1]["name"] for line in lines}
    assert named == {"muse", "rwku", "wmdp", "knowundo"}
    assert [kind for kind in PROMPTS if f"`{kind}`" not in text] == []
