"""The methods that use L alone, a start and then fine-tuning on L with an objective: the rows of the table.

Hyper-parameters that were published for convolutional image classifiers do not carry over as they are: ``source`` says
what was published and ``ours`` what differs here.
"""

from . import objectives, resets, starts, step_rules
from .method import Method

# Places are those that the solutions name themselves by.
CHALLENGE = "NeurIPS 2023 unlearning challenge (arXiv:2406.09073)"

HOT_FACTOR = 2.5


RETAINED_METHODS = (
    Method(
        name="fine_tune",
        summary="The original model, fine-tuned on the retained records (the baseline).",
    ),
    Method(
        name="fine_tune_high_lr",
        summary="The original model, fine-tuned on the retained records at 2.5 times the learning rate of its "
        "training, which falls as a cosine.",
        settings={"lr_scheduler_type": "cosine"},
        learning_rate_factor=HOT_FACTOR,
        source="Goel et al. 2022, arXiv:2201.06640: in their code 30 epochs, of a training that took 62, at a "
        "rate that falls from 0.1 to 0.005 in ever longer cycles",
        ours="one fall instead of cycles, and the peak follows the original's training",
    ),
    Method(
        name="cf_k",
        summary="The original model, of which only the last blocks and what follows them are fine-tuned on the "
        "retained records.",
        settings={"train_last_layers": 1},
        source="CF-k, Goel et al. 2022, arXiv:2201.06640: the last layers; the last block at rate 0.01 for 10 "
        "epochs in the code of Kurmanji et al. 2023, arXiv:2302.09880",
        ours="blocks of a transformer, and the rate of the original's training",
    ),
    Method(
        name="eu_k",
        summary="The original model, of which the last blocks and what follows them are reset and trained on the "
        "retained records.",
        start=resets.reset_last,
        settings={"train_last_layers": 1},
        uses_base=True,
        source="EU-k, Goel et al. 2022, arXiv:2201.06640: the last layers; the last block at rate 0.01 for as "
        "many epochs as the original in the code of Kurmanji et al. 2023, arXiv:2302.09880",
        ours="blocks of a transformer, which go back to the base where it is known, and the budget that is given",
    ),
    Method(
        name="l1_sparse",
        summary="The original model, fine-tuned on the retained records with an L1 penalty that fades away.",
        alpha=5e-4,
        strength="the weight of the L1 norm at the beginning",
        objective=objectives.L1_SPARSE,
        source="Jia et al. 2023, arXiv:2304.04934: 10 epochs at rate 0.01; the code's default weight is 0.2",
        ours="the penalty falls with every step instead of every epoch, and the default weight is far lower",
    ),
    Method(
        name="prune_then_fine_tune",
        summary="The original model with its smallest weights set to zero and kept there, fine-tuned on the retained "
        "records.",
        start=resets.prune,
        rule=step_rules.KeepZeros,
        picks_weights=True,
        alpha=0.95,
        strength="the share of the weights that is pruned",
        source="Jia et al. 2023, arXiv:2304.04934: 95 % by magnitude, then 10 epochs at rate 0.01",
        ours="the trained original is pruned, without a training and a rewinding of its own before",
    ),
    Method(
        name="toward_base",
        summary="The original model, moved part of the way back to its base model, then fine-tuned on the retained "
        "records.",
        start=starts.toward_base,
        alpha=0.6,
        strength="the part of the way to the base",
        needs_base=True,
        uses_base=True,
        replaces=True,
    ),
    Method(
        name="shrink_perturb",
        summary="The original model, moved part of the way to random weights, then fine-tuned on the retained "
        "records.",
        start=starts.shrink_perturb,
        alpha=0.6,
        strength="the part of the way to a fresh initialisation",
        replaces=True,
        source="Ash and Adams 2020, arXiv:1910.08475: in their code 0.4 times the weights and 0.1 times a fresh "
        "initialisation as noise",
        ours="one strength says both: 1 - alpha of the weights and alpha of a fresh initialisation, which is the "
        "noise",
    ),
    Method(
        name="shrink_reheat",
        summary="The original model, moved part of the way to its base model, or to random weights, then fine-tuned "
        "on the retained records at a high learning rate.",
        start=starts.toward_anchor,
        alpha=0.6,
        strength="the part of the way to the base, or to a fresh initialisation where none is known",
        settings={"lr_scheduler_type": "cosine"},
        learning_rate_factor=HOT_FACTOR,
        uses_base=True,
        replaces=True,
        source="the start of Ash and Adams 2020, arXiv:1910.08475, and a high rate as in Goel et al. 2022, "
        "arXiv:2201.06640",
        ours="both at once; alpha was chosen on the planted numbers of recipes/benchmarks/frontier",
    ),
    Method(
        name="noise_reset",
        summary="The original model with noise added to its weight matrices, fine-tuned on the retained records.",
        start=resets.noise,
        alpha=0.6,
        strength="the noise's standard deviation, in units of the weights' own",
        settings={"lr_scheduler_type": "cosine"},
        source=f"fourth place of the {CHALLENGE}: noise of deviation 0.6 on the convolutions, 4 epochs at rate "
        "7e-4 falling as a cosine",
        ours="noise relative to each matrix; without class weights and the faint noise before the last epoch",
    ),
    Method(
        name="reset_smallest",
        summary="The original model with its smallest weights replaced by random ones, fine-tuned on the retained "
        "records while the entropy of its predictions stays as it was.",
        start=resets.reset_smallest,
        picks_weights=True,
        alpha=0.99,
        strength="the share of the weights that is drawn afresh",
        objective=objectives.MATCH_ENTROPY,
        source=f"fifth place of the {CHALLENGE}: 99 % by magnitude, 3.2 epochs at rate 5e-4",
        ours="weight matrices alone; without class weights and the rounding to 16 bits in the end",
    ),
    Method(
        name="reset_ends",
        summary="The original model with its first block and its head reset, fine-tuned on the retained records and "
        "on the original's predictions for them.",
        start=resets.reset_ends,
        objective=objectives.DISTIL_SOFTLY,
        settings={"lr_scheduler_type": "cosine"},
        uses_base=True,
        source=f"seventh place of the {CHALLENGE}: first convolution and last layer reset, 3 epochs of "
        "distillation on validation data at rate 9e-4, then 3 with both losses at rate 1e-3, temperature 5",
        ours="without the epochs on validation data; the ends go back to the base where it is known, and a head "
        "that is tied to the embeddings stays",
    ),
    Method(
        name="noisy_matrices",
        summary="The original model with its head reset, fine-tuned on the retained records while noise is added to "
        "weight matrices chosen at random.",
        start=resets.reset_head,
        rule=step_rules.noisy_matrices,
        disturbs=True,
        alpha=0.6,
        strength="the noise's standard deviation, in units of the weights' own",
        uses_base=True,
        source=f"eighth place of the {CHALLENGE}: noise of standard deviation 0.04 on 6 random layers in each of "
        "4 of 9 epochs, at rate 2e-4, and 1e-3 in the last",
        ours="noise relative to each matrix, on 30 % of them; all weights are trained all the time; a head that "
        "is tied to the embeddings stays",
    ),
    Method(
        name="cyclic_resets",
        summary="The original model, trained to repeat its predictions for the retained records while weight matrices "
        "chosen at random are reset in three cycles.",
        rule=step_rules.cyclic_resets,
        disturbs=True,
        objective=objectives.MATCH_LOGITS,
        settings={"lr_scheduler_type": "cosine"},
        uses_base=True,
        source=f"ninth place of the {CHALLENGE}: 6 random layers, cycles of 1, 2 and 2 epochs at rate 1e-3 with "
        "the squared distance of the logits, noise of deviation 0.01 on the images",
        ours="30 % of the matrices, which go back to the base where it is known; tokens bear no noise; one "
        "schedule over all cycles",
    ),
    Method(
        name="reset_least_changed",
        summary="The original model with the weights that its training changed least replaced by random ones, "
        "fine-tuned on the retained records.",
        start=resets.reset_least_changed,
        picks_weights=True,
        alpha=0.3,
        strength="the share of each matrix that is drawn afresh",
        needs_base=True,
        uses_base=True,
        source=f"third place of the {CHALLENGE}: the 30 % whose gradients on L and S differ least, 5 epochs at "
        "rate 1e-3",
        ours="chosen without S, by the change since the base, which is another choice; all weights learn alike",
    ),
    Method(
        name="distill",
        summary="The original model, moved part of the way to random weights, then fine-tuned on the retained records "
        "and on the original's predictions for them.",
        start=starts.shrink_perturb,
        alpha=0.6,
        strength="the part of the way to a fresh initialisation",
        replaces=True,
        objective=objectives.DISTIL,
        source="UNDO, Lee et al. 2025, arXiv:2506.06278: a model that was unlearned before, moved toward noise a "
        "tenth as large, is taught its own outputs",
        ours="the teacher is the original itself, so it may carry S over; the noise is a fresh initialisation",
    ),
    Method(
        name="rewind",
        summary="An earlier checkpoint of the original's training, fine-tuned on the retained records.",
        start=starts.checkpoint,
        source="rewind-to-delete, Mu and Klabjan 2024, arXiv:2409.09778; for stochastic gradients 2025, "
        "arXiv:2511.15983",
        ours="without the noise in the end that its guarantee rests on",
    ),
    Method(
        name="base",
        summary="The base model, which the original was fine-tuned from, fine-tuned on the retained records only.",
        start=starts.toward_base,
        needs_base=True,
        uses_base=True,
        replaces=True,
    ),
    Method(
        name="retrain",
        summary="The original's training, repeated without the records to forget.",
        start=starts.toward_anchor,
        budget=1.0,
        uses_base=True,
        replaces=True,
    ),
)
