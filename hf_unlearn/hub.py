"""Publishing: the model and its evidence in one commit, and only when the verdict allows it."""

import logging
from pathlib import Path

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import httpx

from .card import CARD_FILE, rendered_card
from .errors import InputError
from .evaluation.report import REPORT_FILE, UnlearningReport, write_text
from .models import ModelSource
from .record import RECORD_FILE, load_record

logger = logging.getLogger(__name__)

# What a model repository is made of, by name: whatever else lies in the folder stays at home.
PUBLISHED = (
    "README.md",
    "unlearning_report.json",
    "training_record.json",
    "loss_histograms.png",
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
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
) -> CommitInfo:
    """Upload a finished run's model, tokenizer, card, report and picture as one commit.

    Args:
        folder: the output folder of a run.
        repo_id: ``owner/name``, or a name in the token's own namespace; created when it does not exist.
        token: for the Hub; that of ``hf auth login`` when None.
        private: whether a new repository is private.
        revision: the branch.
        commit_message: the commit's first line; says the method and the verdict when None.
        push_anyway: publish a model whose verdict is ``not_forgotten`` or ``over_forgotten``.
        push_to_existing: publish to a repository that has files already.

    Raises:
        InputError: the verdict forbids it, the repository has files, or the Hub refuses; nothing is lost then.
    """
    report = UnlearningReport.load(folder / REPORT_FILE)
    word = report.verdict.word
    if word in REFUSED and not push_anyway:
        raise InputError(
            f"The verdict is {word}, so the model is not published as unlearned; choose another method, or add "
            "--push_anyway, and the card's first line will say so."
        )
    files = _files(folder)
    message = commit_message or f"Unlearn {_count(report)}records with {report.method.name}: {word}"
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        present = set(api.list_repo_files(repo_id, revision=revision)) - {".gitattributes"}
        if present and not push_to_existing:
            raise InputError(
                f"{repo_id} has files already; choose a new name, or add --push_to_existing. The old weights stay "
                "readable in its history either way."
            )
        if present:
            logger.warning("The weights that %s had before stay readable in its history.", repo_id)
        _name_card(folder, report, repo_id)
        operations = [CommitOperationAdd(path.name, path) for path in files]
        return api.create_commit(repo_id, operations, commit_message=message, revision=revision)
    except RepositoryNotFoundError:
        raise InputError(f"The Hub does not let this token write to {repo_id}; log in with `hf auth login`.") from None
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is not a possible name of a repository: {error}") from None
    except HfHubHTTPError as error:
        raise InputError(_refusal(error, repo_id)) from None
    except httpx.TransportError as error:
        raise InputError(
            f"The Hub cannot be reached ({type(error).__name__}); the result is in {folder}, push it later with "
            f"`hf-unlearn push {folder} --hub_model_id {repo_id}`."
        ) from None


def _files(folder: Path) -> list[Path]:
    """The files of the model repository; raises InputError when the model is not among them."""
    files = [path for pattern in PUBLISHED for path in sorted(folder.glob(pattern))]
    if not any(path.suffix == ".safetensors" for path in files):
        raise InputError(f"There are no weights in {folder}; the run has not finished.")
    record = load_record(ModelSource(str(folder)))
    if record is not None and record.base_model is not None and Path(record.base_model).exists():
        # It names a folder of this machine.
        files.remove(folder / RECORD_FILE)
    return files


def _name_card(folder: Path, report: UnlearningReport, repo_id: str) -> None:
    """Let the card call the model by its repository, unless somebody has written in it."""
    path = folder / CARD_FILE
    as_rendered = rendered_card(folder, report)
    if path.read_text(encoding="utf-8") == as_rendered:
        write_text(path, rendered_card(folder, report, {"model_name": repo_id}))


def _count(report: UnlearningReport) -> str:
    return f"{report.audit.forget_rows:,} " if report.audit else ""


def _refusal(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code
    cures = {
        401: "the token is not valid; log in again with `hf auth login`",
        403: "the token may not write there; use a token with the role write, or a repository of your own",
        429: "too many requests; try again later",
    }
    return f"The Hub refused to publish to {repo_id} ({status}): {cures.get(status, 'try again later')}."
