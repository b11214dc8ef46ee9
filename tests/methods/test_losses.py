"""Losses on S against their formulas in numpy, gradients against finite differences, and the known slips of others."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from hf_unlearn.errors import InputError
from hf_unlearn.methods import losses
from hf_unlearn.methods.items import Items, labelled_items, labelled_rows, other_labels, skip_first
from hf_unlearn.methods.losses import record_log_p

IGNORED = -100
# Answers of unequal length, a hole, padding, a label at the first place, which no position predicts, and a single one.
LABELS = torch.tensor(
    [
        [IGNORED, 3, 1, IGNORED, 0, 4],
        [IGNORED, IGNORED, 4, 2, IGNORED, IGNORED],
        [1, 0, 5, IGNORED, IGNORED, IGNORED],
        [IGNORED, IGNORED, IGNORED, 2, IGNORED, IGNORED],
    ]
)
VOCABULARY = 6
CONTROL = np.linspace(-1, 2, VOCABULARY)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The formulas, by hand


@dataclass(frozen=True)
class Record:
    """What is predicted of one record: logits, what the reference says there, and the labels.

    Of ``fixed`` no gradient is taken; it is the same as ``rows`` unless the gradient is what is asked for.
    """

    rows: list[np.ndarray]
    reference: list[np.ndarray]
    fixed: list[np.ndarray]
    labels: list[int]

    def log_p(self) -> float:
        return sum(log_softmax(row)[y] for row, y in zip(self.rows, self.labels, strict=True))

    def log_ref(self) -> float:
        return sum(log_softmax(row)[y] for row, y in zip(self.reference, self.labels, strict=True))

    def mirrored(self) -> "Record":
        """Another answer to the same prompt: the same labels in a vocabulary that runs backward."""
        parts = ([row[::-1] for row in rows] for rows in (self.rows, self.reference, self.fixed))
        return Record(*parts, self.labels)


def by_hand(
    values: torch.Tensor, reference: torch.Tensor, labels: torch.Tensor, next_token: bool, fixed: torch.Tensor
) -> list[Record]:
    found = []
    for record, line in enumerate(labels.tolist()):
        places = [i for i, y in enumerate(line) if y != IGNORED and not (next_token and i == 0)]
        rows = [[x[record, i - int(next_token)].numpy() for i in places] for x in (values, reference, fixed)]
        found.append(Record(*rows, [line[i] for i in places]))
    return found


def each(formula: Callable[[np.ndarray, np.ndarray, np.ndarray, int], float]) -> Callable[[Record], list[float]]:
    return lambda r: [formula(*item) for item in zip(r.rows, r.reference, r.fixed, r.labels, strict=True)]


def minus_log_sigma(x: float) -> float:
    return float(np.log1p(np.exp(-x)) if x > 0 else np.log1p(np.exp(x)) - x)


def kl(wanted: np.ndarray, said: np.ndarray, temperature: float = 1.0) -> float:
    p, q = softmax(wanted / temperature), softmax(said / temperature)
    return float(sum(p * np.log(p / q)))


def adjusted(row: np.ndarray, label: int, strength: float) -> np.ndarray:
    return softmax([z - strength * (v == label) for v, z in enumerate(row)])


def without(row: np.ndarray, label: int) -> np.ndarray:
    p = np.array([0.0 if v == label else np.exp(z) for v, z in enumerate(row)])
    return p / p.sum()


def reference_of(items: Items, reference: torch.Tensor) -> torch.Tensor:
    return record_log_p(items._replace(rows=reference))


def dpo(items: Items, reference: torch.Tensor) -> torch.Tensor:
    other = items._replace(rows=items.rows.flip(-1))
    return losses.dpo(items, other, reference_of(items, reference), reference_of(items, reference.flip(-1)), 0.1)


@dataclass(frozen=True)
class Loss:
    ours: Callable[[Items, torch.Tensor], torch.Tensor]
    formula: Callable[[Record], list[float]]
    of_logits: bool = True


LOSSES = {
    "nll": Loss(lambda i, _: losses.nll(i), each(lambda z, t, f, y: -log_softmax(z)[y])),
    "gradient ascent": Loss(lambda i, _: losses.gradient_ascent(i), each(lambda z, t, f, y: log_softmax(z)[y])),
    "wga": Loss(lambda i, _: losses.wga(i, 0.5), each(lambda z, t, f, y: softmax(f)[y] ** 0.5 * log_softmax(z)[y])),
    "satimp": Loss(
        lambda i, _: losses.satimp(i, 5.0, 0.1),
        each(lambda z, t, f, y: softmax(f)[y] ** 5 * (1 - softmax(f)[y]) ** 0.1 * log_softmax(z)[y]),
    ),
    "npo": Loss(
        lambda i, t: losses.npo(i, reference_of(i, t), 0.1),
        lambda r: [20 * minus_log_sigma(-0.1 * (r.log_p() - r.log_ref()))],
    ),
    "dpo": Loss(
        dpo,
        lambda r: [
            20 * minus_log_sigma(0.1 * (r.log_p() - r.log_ref() - r.mirrored().log_p() + r.mirrored().log_ref()))
        ],
    ),
    "simnpo": Loss(
        lambda i, _: losses.simnpo(i, 2.5, 0.25),
        lambda r: [2 / 2.5 * minus_log_sigma(2.5 * (-r.log_p() / len(r.labels) - 0.25))],
    ),
    "kl": Loss(losses.kl_to_teacher, each(lambda z, t, f, y: kl(t, z))),
    "scrub on S": Loss(lambda i, t: losses.scrub_forget(i, t, 4.0), each(lambda z, t, f, y: -16 * kl(t, z, 4.0))),
    "scrub on L": Loss(
        lambda i, t: losses.scrub_retain(i, t, 0.5, 0.9, 2.0),
        each(lambda z, t, f, y: 0.5 * 4 * kl(t, z, 2.0) - 0.9 * log_softmax(z)[y]),
    ),
    "undial": Loss(
        lambda i, t: losses.undial(i, t, 3.0),
        each(lambda z, t, f, y: -float(adjusted(t, y, 3.0) @ log_softmax(z))),
    ),
    "ce-u": Loss(lambda i, _: losses.ce_u(i), each(lambda z, t, f, y: -float(without(f, y) @ log_softmax(z)))),
    "pdu": Loss(lambda i, _: losses.flatness(i), each(lambda z, t, f, y: (max(z) - sum(z) / len(z)) ** 2)),
    "rmu on S": Loss(
        lambda i, _: losses.rmu(i, torch.from_numpy(CONTROL)),
        lambda r: [sum(sum((h - CONTROL) ** 2) / len(h) for h in r.rows) / len(r.rows)],
        of_logits=False,
    ),
    "rmu on L": Loss(
        losses.rmu,
        lambda r: [sum(sum((h - t) ** 2) / len(h) for h, t in zip(r.rows, r.reference, strict=True)) / len(r.rows)],
        of_logits=False,
    ),
}


def ours(
    name: str, values: torch.Tensor, reference: torch.Tensor, labels: torch.Tensor, next_token: bool
) -> torch.Tensor:
    told = labelled_rows(reference, labels, next_token)
    return LOSSES[name].ours(labelled_items(values, labels, next_token), told)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("next_token", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_against_their_formulas(name: str, next_token: bool, batch: int) -> None:
    values, reference, labels = draw(4, 6, VOCABULARY), draw(4, 6, VOCABULARY, seed=1), LABELS
    values, reference, labels = (x[4 - batch :] for x in (values, reference, labels))
    expected = [v for r in by_hand(values, reference, labels, next_token, values) for v in LOSSES[name].formula(r)]
    found = ours(name, values, reference, labels, next_token)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_a_text_classifier(name: str) -> None:
    values, reference, labels = draw(4, VOCABULARY), draw(4, VOCABULARY, seed=1), torch.tensor([0, 5, 2, 2])
    spread = [x[:, None] for x in (values, reference, labels)]
    records = by_hand(*spread, False, spread[0])
    expected = [v for r in records for v in LOSSES[name].formula(r)]
    np.testing.assert_allclose(ours(name, values, reference, labels, False).numpy(), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_and_how_a_step_is_cut_change_nothing(name: str) -> None:
    values, reference = draw(4, 6, VOCABULARY), draw(4, 6, VOCABULARY, seed=1)
    whole = ours(name, values, reference, LABELS, True)
    parts = [ours(name, *(x[i:j] for x in (values, reference, LABELS)), True) for i, j in ((0, 1), (1, 3), (3, 4))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-13, atol=0)
    for left, right in ((0, 3), (2, 0)):
        noise = [100 * draw(4, n, VOCABULARY, seed=n + 2) for n in (left, right)]
        shape = (left, right)
        wider = torch.nn.functional.pad(LABELS, shape, value=IGNORED)
        # What is in the first place is predicted once there is something before it.
        wider[2, left] = IGNORED
        padded = [torch.cat([noise[0], x, noise[1]], 1) for x in (values, reference)]
        torch.testing.assert_close(ours(name, *padded, wider, True), whole, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_raised_to_single(name: str) -> None:
    values, reference = draw(4, 6, VOCABULARY).bfloat16(), draw(4, 6, VOCABULARY, seed=1).bfloat16()
    found = ours(name, values, reference, LABELS, True)
    assert found.dtype == (torch.float64 if name == "rmu on S" else torch.float32)
    exact = ours(name, values.double(), reference.double(), LABELS, True)
    torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("next_token", [True, False])
def test_a_record_without_a_label_is_an_error(next_token: bool) -> None:
    labels = LABELS.clone()
    labels[1:3] = IGNORED
    labels[2, 0] = 3 if next_token else IGNORED
    with pytest.raises(InputError, match="2 of the 4 records of a batch have no label"):
        labelled_items(draw(4, 6, VOCABULARY), labels, next_token)
    with pytest.raises(InputError, match="1 of the 3 records"):
        labelled_items(draw(3, VOCABULARY), torch.tensor([1, IGNORED, 0]), False)


# Gradients


def two_layers(weights: list[torch.Tensor]) -> torch.Tensor:
    """What a model of two layers says at every position of four texts."""
    tokens = torch.arange(24).reshape(4, 6) % VOCABULARY
    embedding, hidden, head = weights
    return torch.tanh(embedding[tokens].cumsum(1) @ hidden) @ head


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_against_finite_differences(name: str) -> None:
    weights = [draw(VOCABULARY, 3, seed=5) / 3, draw(3, 3, seed=6) / 3, draw(3, VOCABULARY, seed=7) / 3]
    reference, step = draw(4, 6, VOCABULARY, seed=1), 1e-5
    for weight in weights:
        weight.requires_grad_()
    ours(name, two_layers(weights), reference, LABELS, True).sum().backward()
    gradients = [weight.grad for weight in weights]
    with torch.no_grad():
        fixed = two_layers(weights)

        def total() -> float:
            records = by_hand(two_layers(weights), reference, LABELS, True, fixed)
            return sum(v for r in records for v in LOSSES[name].formula(r))

        for weight, gradient in zip(weights, gradients, strict=True):
            assert gradient is not None
            slopes = np.zeros(weight.shape)
            for place in np.ndindex(*weight.shape):
                weight[place] += step
                above = total()
                weight[place] -= 2 * step
                slopes[place] = (above - total()) / (2 * step)
                weight[place] += step
            np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-6, atol=1e-7)
            assert np.abs(slopes).max() > 1e-4


def test_npo_becomes_gradient_ascent_where_beta_goes_to_zero() -> None:
    reference, gradients = draw(4, 6, VOCABULARY, seed=1), []
    for loss in (lambda i, t: losses.npo(i, reference_of(i, t), 1e-9), lambda i, _: losses.gradient_ascent(i)):
        values = draw(4, 6, VOCABULARY).requires_grad_()
        loss(labelled_items(values, LABELS, True), labelled_rows(reference, LABELS, True)).sum().backward()
        gradients.append(values.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-8)


# Far out


@pytest.mark.parametrize("where", ["label", "other", "all but the label"])
@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.of_logits])
def test_a_class_that_is_ruled_out_is_no_trouble(name: str, where: str) -> None:
    labels = torch.tensor([[IGNORED, 3, 1], [IGNORED, 4, IGNORED]])
    values, reference = draw(2, 3, VOCABULARY), draw(2, 3, VOCABULARY, seed=1)
    if where == "label":
        values[0, 0, 3] = -torch.inf
    elif where == "other":
        values[0, 0, 2] = reference[0, 0, 2] = -torch.inf
    else:
        values[0, 0, torch.arange(VOCABULARY) != 3] = -torch.inf
    values.requires_grad_()
    found = ours(name, values, reference, labels, True)
    found.sum().backward()
    assert values.grad is not None
    assert found.isfinite().all()
    assert values.grad.isfinite().all()


def test_weights_of_probabilities_at_both_ends() -> None:
    """In single precision p is 1 where the others are 6e-8 together, and 0 where its loss is above 104."""
    sure = torch.tensor([[20.0, 0.0, 0.0]], requires_grad=True)
    never = torch.tensor([[0.0, 60.0, 0.0]])
    label, one = torch.tensor([0]), torch.tensor([1])
    found = losses.satimp(Items(sure, label, one), 5.0, 0.1)
    found.backward()
    assert found.item() == 0
    assert torch.equal(sure.grad, torch.zeros(1, 3))
    assert losses.satimp(Items(never, label, one), 5.0, 0.1).item() == 0
    assert losses.wga(Items(never, label, one), 0.1).item() == pytest.approx(np.exp(-6.0) * -60, rel=1e-5)


def test_preferences_far_from_the_reference() -> None:
    items = Items(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([1]))
    for reference, expected in ((-1e4, 2 * (1e4 - np.log(2))), (1e4, 0.0)):
        assert losses.npo(items, torch.tensor([reference]), 0.1).item() == pytest.approx(expected, rel=1e-6)


# What others got wrong. Each test writes their variant and shows where it goes astray.


def next_token_nll(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Their cross-entropy: summed over the shifted labels of each record."""
    return torch.nn.functional.cross_entropy(
        values[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none"
    ).sum(1)


def ours_of_undial(values: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> float:
    found = losses.undial(labelled_items(values, labels, True), labelled_rows(teacher, labels, True), 3.0)
    return float(found.mean())


def test_undial_is_not_asked_where_nothing_is_labelled() -> None:
    def theirs(values: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        lowered = teacher[:, :-1].clone()
        for record, line in enumerate(labels[:, 1:].tolist()):
            for position, label in enumerate(line):
                lowered[record, position, label] -= 3.0  # -100 finds the entry that is 100 from the end
        target = lowered.softmax(-1)
        return -(target * values[:, :-1].log_softmax(-1)).sum(-1).mean()

    values, teacher = draw(2, 6, 120), draw(2, 6, 120, seed=1)
    full = torch.randint(0, 120, (2, 6), generator=torch.Generator().manual_seed(0))
    holes = torch.where(LABELS[:2] == IGNORED, IGNORED, full)
    mean = ours_of_undial(values, teacher, full)
    assert float(theirs(values, teacher, full)) == pytest.approx(mean, rel=1e-12), "without padding they agree"
    changed = teacher.clone()
    changed[0, 2, 20] += 50  # at a position without a label, in the entry that -100 finds
    assert float(theirs(values, teacher, holes)) != pytest.approx(float(theirs(values, changed, holes)), rel=1e-3)
    assert ours_of_undial(values, teacher, holes) == ours_of_undial(values, changed, holes)


def test_rmu_divides_each_record_by_its_own_length() -> None:
    def theirs(hidden: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        sums = ((hidden - target).square().mean(2) * mask).sum(1)
        return (sums / mask.sum(-1, keepdim=True)).mean()  # (records,) / (records, 1)

    hidden = torch.zeros(2, 4, 3, dtype=torch.float64)
    hidden[0], hidden[1, 0] = 1.0, 3.0
    labels = torch.tensor([[1, 1, 1, 1], [1, IGNORED, IGNORED, IGNORED]])
    target, mask = torch.zeros(3, dtype=torch.float64), labels != IGNORED
    found = losses.rmu(labelled_items(hidden, labels, False), target)
    assert found.tolist() == [1.0, 9.0]
    assert float(theirs(hidden, target, mask)) == 6.5 * (1 / 4 + 1) / 2 != float(found.mean())
    alone = labelled_items(hidden[:1], labels[:1], False)
    assert float(theirs(hidden[:1], target, mask[:1])) == float(losses.rmu(alone, target).mean())


def test_pdu_flattens_where_labels_are_predicted() -> None:
    def theirs(values: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        mask = labels != IGNORED
        return ((values.amax(-1) - values.mean(-1)).square() * mask).sum() / mask.sum()

    values, labels = torch.zeros(1, 4, 3, dtype=torch.float64), torch.tensor([[IGNORED, IGNORED, 2, 1]])
    values[0, 1, 2] = 3.0  # where the answer's first token is predicted
    values[0, 3, 0] = 30.0  # where what follows the end would be
    assert losses.flatness(labelled_items(values, labels, True)).tolist() == [4.0, 0.0]
    assert float(theirs(values, labels)) == 200.0


def test_pdu_moves_its_multiplier_once_a_step() -> None:
    batches, limit, step = [0.1, 0.9, 0.2, 0.4], 0.3, 5.0
    theirs = 1.0
    for loss in batches:
        theirs = max(0.0, theirs + step * (loss - limit))
    assert losses.dual_step(1.0, float(np.mean(batches)), limit, step) == pytest.approx(1.5)
    assert theirs == pytest.approx(3.0)
    assert losses.dual_step(1.0, 0.0, limit, step) == 0.0
    assert losses.dual_step(0.0, 0.5, limit, step) == pytest.approx(1.0)


def test_kl_counts_no_padding() -> None:
    def theirs(values: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        rows = [x.log_softmax(-1).view(-1, VOCABULARY) for x in (values, reference)]
        return torch.nn.functional.kl_div(*rows, reduction="batchmean", log_target=True)

    values, reference = draw(4, 6, VOCABULARY), draw(4, 6, VOCABULARY, seed=1)
    padded = [torch.cat([x, draw(4, 6, VOCABULARY, seed=2 + i)], 1) for i, x in enumerate((values, reference))]
    wider = torch.nn.functional.pad(LABELS, (0, 6), value=IGNORED)
    assert float(theirs(*padded)) != pytest.approx(float(theirs(values, reference)), rel=1e-3)
    torch.testing.assert_close(ours("kl", *padded, wider, True), ours("kl", values, reference, LABELS, True))


def test_bad_teaching_adds_over_the_classes() -> None:
    values, teacher = draw(4, VOCABULARY), draw(4, VOCABULARY, seed=1)
    theirs = (teacher.softmax(-1) * (teacher.log_softmax(-1) - values.log_softmax(-1))).mean()  # kl_div's default
    found = losses.kl_to_teacher(labelled_items(values, torch.tensor([0, 1, 2, 3]), False), teacher)
    assert float(found.mean()) == pytest.approx(VOCABULARY * float(theirs), rel=1e-12)


def test_an_answer_that_was_cut_away_is_no_number_elsewhere() -> None:
    values, labels = draw(2, 6, VOCABULARY), LABELS[:2].clone()
    labels[1] = IGNORED
    theirs = next_token_nll(values, labels) / (labels != IGNORED).sum(-1)
    assert theirs.isnan().tolist() == [False, True]
    with pytest.raises(InputError):
        labelled_items(values, labels, True)


def test_simnpo_counts_the_tokens_that_are_predicted() -> None:
    values, labels = draw(1, 6, VOCABULARY), torch.tensor([[1, 0, 5, 2, 2, 3]])
    theirs = next_token_nll(values, labels) / (labels != IGNORED).sum(-1)
    items = labelled_items(values, labels, True)
    assert float(theirs) == pytest.approx(-float(record_log_p(items)) / 6)
    expected = 2 / 2.5 * minus_log_sigma(2.5 * -float(record_log_p(items)) / 5)
    assert float(losses.simnpo(items, 2.5, 0.0)) == pytest.approx(expected, rel=1e-12)


def test_weighted_ascent_survives_a_label_that_is_ruled_out() -> None:
    rows, label = torch.tensor([[-torch.inf, 1.0, 2.0]]), torch.tensor([0])
    nll = torch.nn.functional.cross_entropy(rows, label, reduction="none")
    assert ((-nll).exp() ** 0.5 * nll).isnan().all()
    assert losses.wga(Items(rows, label, torch.tensor([1])), 0.5).item() == 0


def test_a_mean_of_means_depends_on_how_a_step_is_cut() -> None:
    values, reference = draw(4, 6, VOCABULARY), draw(4, 6, VOCABULARY, seed=1)
    whole = ours("nll", values, reference, LABELS, True)
    cuts = [[ours("nll", values[i:j], reference[i:j], LABELS[i:j], True) for i, j in c] for c in (
        ((0, 2), (2, 4)), ((0, 1), (1, 4)),
    )]  # fmt: skip
    means = [np.mean([float(part.mean()) for part in parts]) for parts in cuts]
    assert means[0] != pytest.approx(means[1], rel=1e-3)
    for parts in cuts:
        assert sum(float(part.sum()) for part in parts) / len(whole) == pytest.approx(float(whole.mean()))


# Labels


def test_random_labels_are_others_and_each_as_likely() -> None:
    labels = torch.full((3, 40_000), 2)
    labels[0, :7] = IGNORED
    drawn = other_labels(labels, 5, torch.Generator().manual_seed(0))
    assert torch.equal(drawn[0, :7], labels[0, :7])
    counts = torch.bincount(drawn[1:].flatten(), minlength=5).tolist()
    assert counts[2] == 0
    assert all(abs(count - 20_000) < 5 * np.sqrt(20_000 * 3 / 4) for i, count in enumerate(counts) if i != 2)
    theirs = torch.randint(0, 5, labels[1].shape, generator=torch.Generator().manual_seed(0))
    assert (theirs == labels[1]).double().mean() == pytest.approx(1 / 5, abs=0.02), "so much of S would stay"
    assert torch.equal(drawn, other_labels(labels, 5, torch.Generator().manual_seed(0)))
    assert not torch.equal(drawn, other_labels(labels, 5, torch.Generator().manual_seed(1)))
    assert other_labels(torch.tensor([0, 1]), 2, torch.Generator()).tolist() == [1, 0]
    with pytest.raises(InputError, match="at least 2 classes, and this model has 1"):
        other_labels(torch.tensor([0]), 1, torch.Generator())


def test_the_first_tokens_of_an_answer_can_be_left_alone() -> None:
    assert torch.equal(skip_first(LABELS, 0), LABELS)
    assert skip_first(LABELS, 1).tolist() == [
        [IGNORED, IGNORED, 1, IGNORED, 0, 4],
        [IGNORED, IGNORED, IGNORED, 2, IGNORED, IGNORED],
        [IGNORED, 0, 5, IGNORED, IGNORED, IGNORED],
        [IGNORED] * 6,
    ]
    assert skip_first(LABELS, 3)[0].tolist() == [IGNORED] * 5 + [4]


def test_the_control_vector_has_its_length_and_comes_from_the_seed() -> None:
    vector = losses.control_vector(64, 6.5, 3)
    assert vector.shape == (64,)
    assert vector.norm() == pytest.approx(6.5, rel=1e-6)
    assert (vector >= 0).all()
    assert torch.equal(vector, losses.control_vector(64, 6.5, 3))
    assert not torch.equal(vector, losses.control_vector(64, 6.5, 4))
    torch.testing.assert_close(losses.control_vector(64, 2.0, 3), vector * 2 / 6.5)
