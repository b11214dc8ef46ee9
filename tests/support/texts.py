"""What a language model makes of texts that could follow a prompt."""

from collections.abc import Sequence

import numpy as np
from datasets import Dataset
from torch import nn

from hf_unlearn.data.encoding import PaddingCollator, RecordEncoder, encode
from hf_unlearn.evaluation.scoring import score


def losses_of_texts(
    model: nn.Module,
    prompts: Sequence[str],
    candidates: Sequence[Sequence[str]],
    encoder: RecordEncoder,
    batch_size: int,
) -> np.ndarray:
    """The summed loss of each candidate after its prompt, shape (prompts, candidates)."""
    rows = [
        {"prompt": prompt, "completion": text}
        for prompt, texts in zip(prompts, candidates, strict=True)
        for text in texts
    ]
    examples = encode(Dataset.from_list(rows), encoder, "candidate")
    assert isinstance(examples, Dataset)
    table = score(model, examples, PaddingCollator(0), task="text-generation", batch_size=batch_size)
    return table["nll"].to_numpy().reshape(len(prompts), -1)
