"""Publishing: the model and its evidence in one commit, and only when the verdict allows it."""

import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatch
from io import BytesIO
from itertools import product
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetInfo,
    HfApi,
    ModelCard,
    ModelInfo,
)
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import httpx
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME
from yaml import YAMLError

from ..data.request.row_filter import FILTER_FILE
from ..errors import InputError
from ..evaluation.report import REPORT_FILE, UnlearningReport
from ..evaluation.wording import PICTURES, beside_verdict
from ..files import write_text
from ..hub_access import UNREACHABLE, Patience, is_repository_name, publishing_errors
from ..models.location import (
    INDEX,
    MODEL_FILES,
    WEIGHT_FILES,
    ModelSource,
    adapter_config,
    file_beside,
    indexed_weights,
    loaded_weights,
)
from ..models.training_record import RECORD_FILE, load_record
from .card import CARD_FILE, Published, rendered_card
from .ledger import LEDGER_FILE, Ledger, ledger_text, load_ledger
from .ledger_of_model import ledger_of
from .measured_weights import check_measured

logger = logging.getLogger(__name__)

# What a model repository has beside the weights, by name; anything else in the folder is not published.
PUBLISHED = (
    *MODEL_FILES,
    *PICTURES,
    FILTER_FILE,
    "shards/[0-9]*/adapter_config.json",
    "shards/[0-9]*/training_record.json",
    "shards/[0-9]*/slices/[0-9]*/adapter_config.json",
    "shards/[0-9]*/slices/[0-9]*/training_record.json",
)
# What would be loaded in place of the new weights, or beside them, and what tells of the rows of the old ones.
OLD_FILES = (
    *WEIGHT_FILES, ADAPTER_CONFIG_NAME, "*.bin", "*.bin.index.json", "*.h5", "*.msgpack", "*.gguf", FILTER_FILE
)  # fmt: skip
OLD_SHARDS = ("shards/[0-9]*/*",)
REFUSED = ("not_forgotten", "over_forgotten")


def publish(
    folder: Path,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    push_anyway: bool = False,
    push_to_existing: bool = False,
    tell_users_to_move: bool = False,
) -> CommitInfo:
    """Upload a finished run's model, tokenizer, card, report and pictures as one commit.

    Args:
        folder: the output folder of a run.
        repo_id: ``owner/name``, or a name in the token's own namespace; created when it does not exist.
        token: for the Hub; that of ``hf auth login`` when None.
        private: whether a new repository is private.
        revision: the branch.
        commit_message: the commit's first line; says the method and the verdict when None.
        push_anyway: publish a model whose verdict is ``not_forgotten`` or ``over_forgotten``, whose utility is
            ``lost``, or whose weights are still the original's.
        push_to_existing: publish to a repository that has files already.
        tell_users_to_move: ask users of the original, in the card, to move to this model.

    Raises:
        InputError: the verdict forbids it, the weights are not those that were measured, the repository has files, or
            the Hub refuses; nothing is lost then.
    """
    report = UnlearningReport.load(folder / REPORT_FILE)
    _check_verdict(report, push_anyway, tell_users_to_move)
    contents: dict[str, Path | bytes] = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    _check_model(folder, report)
    records = f"{report.audit.forget_rows:,} records" if report.audit else "records"
    message = commit_message or f"Unlearn {records} with {report.method.name}: {report.verdict.word}"
    api, patiently = HfApi(token=token), Patience()
    with publishing_errors(repo_id, folder):
        if "/" not in repo_id:
            repo_id = f"{patiently(api.whoami)['name']}/{repo_id}"
        published = Published(repo_id, _original_is_public(report, repo_id, patiently), tell_users_to_move)
        contents[CARD_FILE] = card = _card(folder, report, published)
        refusal = _create(api, repo_id, private, patiently)
        try:
            info = _model_info(api, repo_id, revision, refusal, patiently)
            present = files_of(info)
            if LEDGER_FILE in present:
                theirs = api.hf_hub_download(repo_id, LEDGER_FILE, revision=info.sha)
                contents[LEDGER_FILE] = _longer_ledger(folder, Path(theirs), repo_id)
            # What is there may be this very commit, when its answer was lost.
            allowed = push_to_existing or _is_published(contents, present)
            require_writable(info, private, allowed, "The old weights stay readable in its history either way.")
            if present and push_to_existing:
                logger.warning(
                    "The old weights of %s stay readable in its history until `hf-unlearn erase` deletes them.",
                    repo_id,
                )
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                CommitOperationAdd(name, content) for name, content in contents.items()
            ]
            operations += [CommitOperationDelete(name) for name in present if name not in contents and _is_old(name)]
            commit = patiently(
                lambda: api.create_commit(
                    repo_id,
                    operations,
                    commit_message=message,
                    commit_description=f"Verdict: {report.verdict.word}{beside_verdict(report.verdict)}.",
                    revision=revision,
                    parent_commit=info.sha,
                )
            )
        except BaseException:
            if refusal is None:
                _remove_if_empty(api, repo_id)
            raise
    write_text(folder / CARD_FILE, card.decode())
    return commit


def _check_verdict(report: UnlearningReport, push_anyway: bool, tell_users_to_move: bool) -> None:
    """Raise InputError where the verdict forbids to publish the model, or to ask users to move to it."""
    word, original, beside = report.verdict.word, report.original, beside_verdict(report.verdict)
    if word in REFUSED and not push_anyway:
        raise InputError(
            f"The verdict is {word}{beside}, so the model is not published as unlearned; choose another method, "
            "or add --push_anyway (in Python, push_anyway=True), and the card's first line will say so."
        )
    if report.weights_moved is False and not push_anyway:
        raise InputError(
            "All weights are those of the original, so nothing was unlearned; train at a higher learning rate or for "
            "longer, or add --push_anyway (in Python, push_anyway=True), and the card's first line will say so."
        )
    if report.utility is not None and report.utility.word == "lost" and not push_anyway:
        raise InputError(
            "The utility is lost, so the model is not published as it is; train for longer, choose another method, or "
            "add --push_anyway (in Python, push_anyway=True), and the card's first line will say so."
        )
    if tell_users_to_move and word in REFUSED:
        raise InputError(
            f"The verdict is {word}{beside}, so nobody can be asked to move to this model; leave out "
            "--tell_users_to_move."
        )
    if tell_users_to_move and (original is None or not original.on_hub):
        raise InputError(
            "The original model is not on the Hub and has no users there; leave out --tell_users_to_move."
        )


def files_of(info: ModelInfo | DatasetInfo) -> dict[str, RepoSibling]:
    """The files of a repository by name, without the one that the Hub puts there itself."""
    return {file.rfilename: file for file in info.siblings or [] if file.rfilename != ".gitattributes"}


def require_writable(
    info: ModelInfo | DatasetInfo, private: bool | None, push_to_existing: bool, history: str
) -> None:
    """Raise InputError where the user did not allow to write to a repository as it is.

    ``private`` says whether it must be private, and ``history`` is a sentence about the files that it has.
    """
    if private and not info.private:
        raise InputError(f"{info.id} is there already and public; make it private on its page first.")
    if files_of(info) and not push_to_existing:
        raise InputError(
            f"{info.id} has files already; choose a new name, or add --push_to_existing (in Python, "
            f"push_to_existing=True). {history}"
        )


def _create(api: HfApi, repo_id: str, private: bool | None, patiently: Patience) -> HfHubHTTPError | None:
    """Make the repository, with the visibility that it is to have; returns why the Hub did not make one.

    Until its commit it is empty, and no part of a model is ever seen. Made private and opened in the end, it would not
    be seen at all, but after a kill the next attempt would find an empty private repository, which may as well be one
    that its owner wants private. So an error removes what was made just now, and a kill leaves it empty for the next
    attempt.
    """
    try:
        patiently(lambda: api.create_repo(repo_id, private=private))
    except HfHubHTTPError as error:
        # It exists, or the token may only write to what exists.
        if error.response.status_code not in (401, 402, 403, 409):
            raise
        return error
    return None


def _model_info(
    api: HfApi, repo_id: str, revision: str | None, refusal: HfHubHTTPError | None, patiently: Patience
) -> ModelInfo:
    """What the repository holds; raises the refusal to make it when there is none."""
    try:
        return patiently(lambda: api.model_info(repo_id, revision=revision, files_metadata=True))
    except RevisionNotFoundError:
        raise
    except HfHubHTTPError as error:
        unseen = (404,) if refusal is not None and refusal.response.status_code == 409 else (401, 403, 404)
        if refusal is None or error.response.status_code not in unseen:
            raise
        raise refusal from None


def _remove_if_empty(api: HfApi, repo_id: str) -> None:
    """Take back a repository that this very call made, as far as the Hub can still be reached."""
    with suppress(HfHubHTTPError, httpx.TransportError):
        if not files_of(api.model_info(repo_id)):
            api.delete_repo(repo_id)


def _is_published(contents: Mapping[str, Path | bytes], present: Mapping[str, RepoSibling]) -> bool:
    """Whether a repository has all of these files with this very content."""
    return all(name in present and _is_same(content, present[name]) for name, content in contents.items())


def _is_old(name: str) -> bool:
    """Whether a file of a repository belongs to the old weights, or holds what a shard knew."""
    return any(fnmatch(name, kind) for kind in (OLD_FILES if "/" not in name else OLD_SHARDS))


def _is_same(content: Path | bytes, file: RepoSibling) -> bool:
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    if size != file.size:
        return False
    with content.open("rb") if isinstance(content, Path) else BytesIO(content) as stream:
        if file.lfs is not None:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.lfs.sha256
        blob = b"blob %d\0" % size + stream.read()
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == file.blob_id


def _files(folder: Path) -> list[Path]:
    """The files of the model repository; raises InputError when no model is there that others can load."""
    found = (path for pattern in WEIGHT_FILES for path in folder.glob(pattern))
    weights = loaded_weights(path.relative_to(folder).as_posix() for path in found)
    if INDEX in weights:
        weights = {INDEX, *indexed_weights(folder / INDEX)}
    if not any(name.endswith(".safetensors") for name in weights):
        raise InputError(f"There are no weights in {folder}; the run has not finished.")
    files = [path for pattern in PUBLISHED for path in sorted(folder.glob(pattern))]
    files += [folder / name for name in sorted(weights)]
    for path in files:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path} is a link to a file outside of {folder}, which is not published; remove it.")
    if not (folder / CARD_FILE).is_file():
        raise InputError(f"There is no card in {folder}; write it with `hf-unlearn card {folder}`.")
    ledger_of(ModelSource(str(folder)))
    record = load_record(ModelSource(str(folder)))
    if record is not None and record.base_model is not None and Path(record.base_model).exists():
        if (folder / "sharding.json").is_file():
            raise InputError(
                "The adapters' base model is a folder of this machine, where nobody else finds it; publish that model "
                "first, and train on it by its Hub id."
            )
        # It names a folder of this machine.
        files.remove(folder / RECORD_FILE)
    return files


def _check_model(folder: Path, report: UnlearningReport) -> None:
    """Raise InputError where others could not load the model that was measured, as for an adapter on a folder here."""
    check_measured(folder, report)
    source = ModelSource(str(folder))
    if file_beside(source, ADAPTER_CONFIG_NAME) is None:
        return
    base = adapter_config(source).base_model_name_or_path
    if not base or Path(base).exists() or not is_repository_name(base):
        raise InputError(
            f"The adapter in {folder} lies on {base!r}, a folder of this machine, so nobody else could load it; run "
            "it again with --merge_adapter, or on a base that is on the Hub."
        )


def _longer_ledger(folder: Path, theirs: Path, repo_id: str) -> bytes:
    """The ledger to publish where there is one already: no line of that is lost.

    Raises InputError when neither goes on where the other ends.
    """
    ours, known = load_ledger(folder) or Ledger(), Ledger.read(ledger_text(theirs), f"of {repo_id}")
    begun = known.events[: len(ours.events)] == ours.events
    if begun and ours.runs == known.runs:
        return known.text.encode()
    goes_on = ours.events[: len(known.events)] == known.events
    # The report of a finished run may have been completed since, and its line with it.
    completed = [run.statement for run in ours.runs] == [run.statement for run in known.runs]
    if goes_on or (completed and ours.events[:-1] == known.events[:-1]):
        return ours.text.encode()
    raise InputError(
        f"{repo_id} has a ledger that tells of other requests than {folder}, and publishing would lose them; start "
        "the run from the model that is there, or choose a new name."
    )


def _original_is_public(report: UnlearningReport, repo_id: str, patiently: Patience) -> bool | None:
    """Whether everybody can load the original model beside this one; None when the Hub does not tell."""
    original = report.original
    if original is None or not original.on_hub or original.name == repo_id:
        return None
    try:
        info = patiently(lambda: HfApi(token=False).model_info(original.name))
    except RepositoryNotFoundError:
        return False
    except (HfHubHTTPError, *UNREACHABLE):
        return None
    if info.gated:
        return False
    logger.warning("%s, the original model, is public beside this one.", original.name)
    return True


def _card(folder: Path, report: UnlearningReport, published: Published) -> bytes:
    """The card, as of this repository unless somebody has written in it."""
    text = (folder / CARD_FILE).read_text(encoding="utf-8")
    with suppress(ValueError, YAMLError):
        name = ModelCard(text).data.get("model_name") or folder.resolve().name
        ours = (Published(name, *said) for said in product((None, False, True), (False, True)))
        if any(text == rendered_card(folder, report, published=before) for before in ours):
            return rendered_card(folder, report, published=published, local=False).encode()
    if published.tell_users_to_move:
        logger.warning(
            "The card has been edited and stays as it is: ask users of the original model to move there yourself."
        )
    return text.encode()
