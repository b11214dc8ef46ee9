"""Made sets of the suites' layouts, and models that read them."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..conftest import WORDS


def sentence(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(words))


def write(folder: Path, name: str, rows: Any) -> None:
    """Write rows as a JSON file."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(rows))


def reading_far(base: Path, folder: Path, seed: int) -> Path:
    """A copy of a model that reads long prompts, with weights of its own."""
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(seed)
    for weight in model.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    model.config.max_position_embeddings = 2048
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder
