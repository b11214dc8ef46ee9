"""How long epsilon takes: bounds of each example and of all together, the challenge's epsilons, U-LiRA.

python recipes/benchmarks/epsilon.py                512 models (256 of each arm), 10,000 examples
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hf_unlearn.evaluation.closeness.challenge import challenge_epsilons
from hf_unlearn.evaluation.closeness.epsilon import example_bounds, pooled_bound
from hf_unlearn.evaluation.closeness.ulira import unlearning_lira


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=512, help="both arms together")
    parser.add_argument("--examples", type=int, default=10_000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (args.models // 2, args.examples)
    retrained = rng.normal(size=shape)
    unlearned = rng.normal(size=shape) * rng.uniform(0.5, 2, args.examples) + rng.uniform(0, 3, args.examples)
    functions: tuple[Callable[..., Any], ...] = (example_bounds, pooled_bound, challenge_epsilons, unlearning_lira)
    print(f"{args.models} models, {args.examples:,} examples; seconds:")
    total = 0.0
    for function in functions:
        started = time.perf_counter()
        function(unlearned, retrained)
        spent = time.perf_counter() - started
        total += spent
        print(f"  {function.__name__:20} {spent:.1f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  {'together':20} {total:.1f}; peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
