"""The table of named methods. Those that use L alone are here: a start, then fine-tuning on L with an objective.

The rows of those that use S too are in :mod:`~hf_unlearn.methods.forget_methods`.

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
        start=starts.original,
        summary="The original model, fine-tuned on the retained records (the baseline).",
    ),
    Method(
        name="fine_tune_high_lr",
        start=starts.original,
        settings={"lr_scheduler_type": "cosine"},
        learning_rate_factor=HOT_FACTOR,
        summary="The original model, fine-tuned on the retained records at 2.5 times the learning rate of its "
        "training, which falls as a cosine.",
        source="Goel et al. 2022, arXiv:2201.06640: in their code 30 epochs, of a training that took 62, at a "
        "rate that falls from 0.1 to 0.005 in ever longer cycles",
        ours="one fall instead of cycles, and the peak follows the original's training",
    ),
    Method(
        name="cf_k",
        start=starts.original,
        settings={"train_last_layers": 1},
        summary="The original model, of which only the last blocks and what follows them were fine-tuned on the "
        "retained records.",
        source="CF-k, Goel et al. 2022, arXiv:2201.06640: the last layers; the last block at rate 0.01 for 10 "
        "epochs in the code of Kurmanji et al. 2023, arXiv:2302.09880",
        ours="blocks of a transformer, and the rate of the original's training",
    ),
    Method(
        name="eu_k",
        start=resets.reset_last,
        settings={"train_last_layers": 1},
        uses_base=True,
        summary="The original model, of which only the last blocks and what follows them were drawn afresh and "
        "trained on the retained records.",
        source="EU-k, Goel et al. 2022, arXiv:2201.06640: the last layers; the last block at rate 0.01 for as "
        "many epochs as the original in the code of Kurmanji et al. 2023, arXiv:2302.09880",
        ours="blocks of a transformer, which go back to the base where it is known, and the budget that is given",
    ),
    Method(
        name="l1_sparse",
        start=starts.original,
        alpha=5e-4,
        strength="the weight of the L1 norm at the beginning",
        objective=objectives.L1_SPARSE,
        summary="The original model, fine-tuned on the retained records with an L1 penalty that fades away.",
        source="Jia et al. 2023, arXiv:2304.04934: 10 epochs at rate 0.01; the code's default weight is 0.2",
        ours="the penalty falls with every step instead of every epoch, and the default weight is far lower",
    ),
    Method(
        name="prune_then_fine_tune",
        start=resets.prune,
        rule=step_rules.keep_zeros,
        picks_weights=True,
        alpha=0.95,
        strength="the share of the weights that is pruned",
        summary="The original model with its smallest weights pruned, fine-tuned on the retained records while "
        "they stay zero.",
        source="Jia et al. 2023, arXiv:2304.04934: 95 % by magnitude, then 10 epochs at rate 0.01",
        ours="the trained original is pruned, without a training and a rewinding of its own before",
    ),
    Method(
        name="toward_base",
        start=starts.toward_base,
        alpha=0.6,
        strength="the part of the way to the base",
        needs_base=True,
        uses_base=True,
        replaces=True,
        summary="The original model moved part of the way back to the model it was fine-tuned from, then "
        "fine-tuned on the retained records.",
    ),
    Method(
        name="shrink_perturb",
        start=starts.shrink_perturb,
        alpha=0.6,
        strength="the part of the way to a fresh initialisation",
        replaces=True,
        summary="The original model moved part of the way to a fresh initialisation, then fine-tuned on the "
        "retained records.",
        source="Ash and Adams 2020, arXiv:1910.08475: in their code 0.4 times the weights and 0.1 times a fresh "
        "initialisation as noise",
        ours="one strength says both: 1 - alpha of the weights and alpha of a fresh initialisation, which is the "
        "noise",
    ),
    Method(
        name="shrink_reheat",
        start=starts.toward_anchor,
        alpha=0.6,
        strength="the part of the way to the base, or to a fresh initialisation where none is known",
        settings={"lr_scheduler_type": "cosine"},
        learning_rate_factor=HOT_FACTOR,
        uses_base=True,
        replaces=True,
        summary="The original model moved part of the way to the model it was fine-tuned from, or to a fresh "
        "initialisation, then fine-tuned on the retained records at 2.5 times the learning rate of its training, "
        "which falls as a cosine.",
        source="the start of Ash and Adams 2020, arXiv:1910.08475, and a high rate as in Goel et al. 2022, "
        "arXiv:2201.06640",
        ours="both at once; alpha was chosen on the planted numbers of recipes/benchmarks/frontier",
    ),
    Method(
        name="noise_reset",
        start=resets.noise,
        alpha=0.6,
        strength="the noise's standard deviation, in units of the weights' own",
        settings={"lr_scheduler_type": "cosine"},
        summary="The original model with noise on its weight matrices, fine-tuned on the retained records.",
        source=f"fourth place of the {CHALLENGE}: noise of deviation 0.6 on the convolutions, 4 epochs at rate "
        "7e-4 falling as a cosine",
        ours="noise relative to each matrix; without class weights and the faint noise before the last epoch",
    ),
    Method(
        name="reset_smallest",
        start=resets.reset_smallest,
        picks_weights=True,
        alpha=0.99,
        strength="the share of the weights that is drawn afresh",
        objective=objectives.MATCH_ENTROPY,
        summary="The original model with its smallest weights drawn afresh, fine-tuned on the retained records "
        "while the entropy of its predictions is kept at the original's.",
        source=f"fifth place of the {CHALLENGE}: 99 % by magnitude, 3.2 epochs at rate 5e-4",
        ours="weight matrices alone; without class weights and the rounding to 16 bits in the end",
    ),
    Method(
        name="reset_ends",
        start=resets.reset_ends,
        objective=objectives.DISTIL_SOFTLY,
        settings={"lr_scheduler_type": "cosine"},
        uses_base=True,
        summary="The original model with its first block and its head drawn afresh, fine-tuned on the retained "
        "records and on what the original says of them.",
        source=f"seventh place of the {CHALLENGE}: first convolution and last layer reset, 3 epochs of "
        "distillation on validation data at rate 9e-4, then 3 with both losses at rate 1e-3, temperature 5",
        ours="without the epochs on validation data; the ends go back to the base where it is known, and a head "
        "that is tied to the embeddings stays",
    ),
    Method(
        name="noisy_matrices",
        start=resets.reset_head,
        rule=step_rules.noisy_matrices,
        disturbs=True,
        alpha=0.6,
        strength="the noise's standard deviation, in units of the weights' own",
        uses_base=True,
        summary="The original model with its head drawn afresh, fine-tuned on the retained records while noise is "
        "added again and again to weight matrices chosen at random.",
        source=f"eighth place of the {CHALLENGE}: noise of standard deviation 0.04 on 6 random layers in each of "
        "4 of 9 epochs, at rate 2e-4, and 1e-3 in the last",
        ours="noise relative to each matrix, on 30 % of them; all weights are trained all the time; a head that "
        "is tied to the embeddings stays",
    ),
    Method(
        name="cyclic_resets",
        start=starts.original,
        rule=step_rules.cyclic_resets,
        disturbs=True,
        objective=objectives.MATCH_LOGITS,
        settings={"lr_scheduler_type": "cosine"},
        uses_base=True,
        summary="The original model, of which weight matrices chosen at random are drawn afresh in three cycles, "
        "taught on the retained records to say what the original says.",
        source=f"ninth place of the {CHALLENGE}: 6 random layers, cycles of 1, 2 and 2 epochs at rate 1e-3 with "
        "the squared distance of the logits, noise of deviation 0.01 on the images",
        ours="30 % of the matrices, which go back to the base where it is known; tokens bear no noise; one "
        "schedule over all cycles",
    ),
    Method(
        name="reset_least_changed",
        start=resets.reset_least_changed,
        picks_weights=True,
        alpha=0.3,
        strength="the share of each matrix that is drawn afresh",
        needs_base=True,
        uses_base=True,
        summary="The original model with those weights drawn afresh that its training changed least, fine-tuned "
        "on the retained records.",
        source=f"third place of the {CHALLENGE}: the 30 % whose gradients on L and S differ least, 5 epochs at "
        "rate 1e-3",
        ours="chosen without S, by the change since the base, which is another choice; all weights learn alike",
    ),
    Method(
        name="distill",
        start=starts.shrink_perturb,
        alpha=0.6,
        strength="the part of the way to a fresh initialisation",
        replaces=True,
        objective=objectives.DISTIL,
        summary="The original model moved part of the way to a fresh initialisation, then fine-tuned on the "
        "retained records and on what the original says of them.",
        source="UNDO, Lee et al. 2025, arXiv:2506.06278: a model that was unlearned before, moved toward noise a "
        "tenth as large, is taught its own outputs",
        ours="the teacher is the original itself, so it may carry S over; the noise is a fresh initialisation",
    ),
    Method(
        name="rewind",
        start=starts.checkpoint,
        summary="An earlier checkpoint of the original's training, fine-tuned on the retained records.",
        source="rewind-to-delete, Mu and Klabjan 2024, arXiv:2409.09778; for stochastic gradients 2025, "
        "arXiv:2511.15983",
        ours="without the noise in the end that its guarantee rests on",
    ),
    Method(
        name="base",
        start=starts.toward_base,
        needs_base=True,
        uses_base=True,
        replaces=True,
        summary="The model that the original was fine-tuned from, fine-tuned on the retained records only.",
    ),
    Method(
        name="retrain",
        start=starts.toward_anchor,
        budget=1.0,
        uses_base=True,
        replaces=True,
        summary="The original's training again, without the records to forget.",
    ),
)
