"""Lets a model write as one of several processes, whole and sharded, for test_generation.py to compare.

python tests/support/two_writers.py MODEL OUTPUT
"""

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_unlearn.data.format import RecordFormat
from hf_unlearn.evaluation.generation import generate


def main() -> None:
    from tests.conftest import secrets_rows
    from tests.evaluation.test_generation import examples_of

    torch.set_num_threads(1)
    folder, output = sys.argv[1:]
    state = PartialState(cpu=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    examples = examples_of(tokenizer, secrets_rows(10), RecordFormat("prompt_completion"))

    def written() -> list[list[int]]:
        # Five batches: an odd number for two processes.
        found = generate(model, examples, tokenizer, task="text-generation", batch_size=4, prefixes=(0, 2))
        return [generation.written for generation in found]

    found = {"whole": written()}
    mesh = init_device_mesh("cpu", (state.num_processes,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    found["sharded"] = written()
    Path(output, f"{state.process_index}.json").write_text(json.dumps(found))
    # Neither process takes the group away while the other still talks over it.
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main()
