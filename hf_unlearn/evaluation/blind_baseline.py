"""The blind baseline: how well the texts alone, without the judged model, distinguish S from H.

Where they do, S and H are not drawn alike, and an attack may succeed without any sign of membership.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from ..errors import InputError
from .statistics import Estimate, Groups, clustered_mean, folds, membership_auc

# A text, or the token ids of an example that was tokenised already.
Text = str | Sequence[int]

# S and H count as different from an AUC of 0.55 on: half of the verdict's margin.
BLIND_MARGIN = 0.05

FOLDS = 5

# More records or a longer text change the result little.
MOST_RECORDS = 1000
MOST_SYMBOLS = 1000
MOST_FEATURES = 50_000


@dataclass(frozen=True)
class Labelled:
    """Classes of records.

    Attributes:
        forget, holdout: the class of each record of S and of H, shapes (m,) and (n,).
        texts: records of L, in the form of those of S and H.
        retained: the classes of ``texts``.
    """

    forget: np.ndarray
    holdout: np.ndarray
    texts: Sequence[Text]
    retained: np.ndarray


@dataclass(frozen=True)
class BlindBaseline:
    """How S and H differ by themselves, whatever the model.

    Attributes:
        auc: of a classifier on the texts; 0.5 when S and H are drawn alike.
        length_auc: the probability that a record of S is the longer one; 0.5 when they are drawn alike.
        forget_length, holdout_length: mean length in characters, or in tokens where records are token ids.
        by_group: whether the classifier was judged on groups that it had not seen.
        separable: whether S and H differ so much in topic, length or labels that a membership AUC means little: the
            interval of ``auc`` lies above 0.5, or that of one of the others on either side of it, by more than the
            margin.
        label_auc: of records with a class: the probability that a classifier trained on L finds the class of a record
            of S likelier than that of a record of H. 0.5 when S and H are labelled alike, None without classes.
    """

    auc: Estimate
    length_auc: Estimate
    forget_length: Estimate
    holdout_length: Estimate
    by_group: bool
    separable: bool
    label_auc: Estimate | None = None

    @property
    def natural_auc(self) -> float:
        """The highest membership AUC that the difference of S and H alone can explain."""
        label = self.label_auc.high if self.label_auc else 0.5
        return max(self.auc.high, self.length_auc.high, 1 - self.length_auc.low, label)


def blind_baseline(
    forget: Sequence[Text],
    holdout: Sequence[Text],
    groups: Groups | None = None,
    labels: Labelled | None = None,
    *,
    seed: int,
) -> BlindBaseline | None:
    """Try to distinguish S from H by their texts alone.

    A logistic regression on TF-IDF of words and of pieces of words (of token ids: of single ones and of pairs) and on
    the length scores each record while it is trained on the other folds. With groups a fold holds whole groups, so
    that the classifier learns what S has in common and not who wrote it, and the unit of sampling is the group. Where
    S or H is a single group the unit is the record, because a set of one author differs from one of others just as
    much when the model has seen neither.

    The interval of the AUC takes the trained classifiers as given; over sets drawn alike the AUC spreads about a fifth
    wider. The margin makes up for that: of 100 to 300 pairs of sets drawn alike, at each size from 10 to 300 records a
    side, 0 to 4 % came out separable, and 5 % is the level.

    Args:
        forget, holdout: the records of S and of H, all of them texts or all of them token ids. Of each at most 1,000,
            drawn at random, are read, to their 1,000th character or token.
        groups: label of each record's group (author, customer), for S and H; None when records are independent.
        labels: the classes of the records, with records of L that show which classes are likely.
        seed: of the draw and of the folds.

    Returns:
        The comparison, or None when a side has fewer than two records.

    Raises:
        InputError: a record is neither a text nor token ids, or texts and token ids are mixed.
    """
    kinds = {_kind(record) for record in (*forget, *holdout)}
    if len(kinds) > 1 or None in kinds:
        raise InputError("The blind baseline reads texts or token ids. Give all records in one of the two forms.")
    rng = np.random.default_rng(seed)
    kept = [np.sort(rng.permutation(len(side))[:MOST_RECORDS]) for side in (forget, holdout)]
    records = [[side[int(i)] for i in rows] for side, rows in zip((forget, holdout), kept, strict=True)]
    if groups is not None:
        groups = groups[0][kept[0]], groups[1][kept[1]]
    m, n = map(len, records)
    units, dealt = groups, folds(m, n, groups, FOLDS, seed)
    if dealt is None:
        units, dealt = None, folds(m, n, None, FOLDS, seed)
    if dealt is None:
        return None
    label_auc = None
    if labels is not None:
        of_records = np.concatenate([labels.forget[kept[0]], labels.holdout[kept[1]]])
        label_auc = _label_auc(records, of_records, labels, groups)
    lengths = np.array([len(record) for side in records for record in side], dtype=float)
    features = _features([record[:MOST_SYMBOLS] for side in records for record in side], lengths)
    scores = _out_of_fold(features, np.arange(m + n) < m, np.concatenate(dealt))
    auc = membership_auc(-scores[:m], -scores[m:], groups=units)
    length_auc = membership_auc(-lengths[:m], -lengths[m:], groups=units)
    return BlindBaseline(
        auc=auc,
        length_auc=length_auc,
        forget_length=clustered_mean(lengths[:m], units[0] if units else None),
        holdout_length=clustered_mean(lengths[m:], units[1] if units else None),
        by_group=units is not None,
        separable=auc.low > 0.5 + BLIND_MARGIN or any(map(_off, (length_auc, label_auc))),
        label_auc=label_auc,
    )


def _off(found: Estimate | None) -> bool:
    return found is not None and (found.low > 0.5 + BLIND_MARGIN or found.high < 0.5 - BLIND_MARGIN)


def _label_auc(
    records: list[list[Text]], of_records: np.ndarray, labels: Labelled, groups: Groups | None
) -> Estimate | None:
    """The AUC of S against H by how likely a classifier trained on L finds their classes."""
    known, inverse = np.unique(labels.retained[:MOST_RECORDS], return_inverse=True)
    if len(known) < 2:
        return None
    texts = [record[:MOST_SYMBOLS] for record in (*labels.texts[:MOST_RECORDS], *records[0], *records[1])]
    features = _features(texts, np.array([len(text) for text in texts], dtype=float))
    size = len(texts) - len(records[0]) - len(records[1])
    classifier = LogisticRegression(class_weight="balanced", max_iter=1000).fit(features[:size], inverse)
    odds = classifier.predict_log_proba(features[size:])
    # A classifier trained on L knows no class that L does not have.
    columns = {label: column for column, label in enumerate(known)}
    lowest = float(odds.min())
    surprise = -np.array([odds[i, columns[y]] if y in columns else lowest for i, y in enumerate(of_records)])
    m = len(records[0])
    return membership_auc(surprise[:m], surprise[m:], groups=groups)


def _kind(record: Text) -> str | None:
    if isinstance(record, str):
        return "text"
    ids = isinstance(record, Sequence | np.ndarray) and all(isinstance(i, int | np.integer) for i in record)
    return "ids" if ids else None


def _features(records: list[Text], lengths: np.ndarray) -> sparse.csr_matrix:
    """TF-IDF and standardised log length of each record; no label is needed, so all folds share one vocabulary."""
    texts = [record for record in records if isinstance(record, str)]
    if texts:
        # A letter of a language without spaces is as good as a word, so pieces begin at one character.
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b").build_analyzer()
        pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), lowercase=False).build_analyzer()
        analyzers = [words, pieces]
    else:
        analyzers = [_pairs]
    blocks = []
    for analyzer in analyzers:
        if any(map(analyzer, records)):
            vectorizer = TfidfVectorizer(analyzer=analyzer, max_features=MOST_FEATURES, sublinear_tf=True)
            blocks.append(vectorizer.fit_transform(records))
    size = np.log1p(lengths)
    spread = size.std()
    blocks.append(sparse.csr_matrix(((size - size.mean()) / spread if spread > 0 else size * 0)[:, None]))
    return sparse.hstack(blocks, format="csr")


def _pairs(ids: Sequence[int]) -> list[tuple[int, ...]]:
    numbers = [int(i) for i in ids]
    return [*((i,) for i in numbers), *zip(numbers[:-1], numbers[1:], strict=True)]


def _out_of_fold(features: sparse.csr_matrix, member: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """The score of each record from a classifier that was trained without its fold."""
    scores = np.empty(len(member))
    for held in np.unique(fold):
        train = fold != held
        classifier = LogisticRegression(class_weight="balanced", max_iter=1000)
        classifier.fit(features[train], member[train])
        scores[~train] = classifier.decision_function(features[~train])
    return scores
