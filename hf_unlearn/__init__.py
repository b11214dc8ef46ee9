"""Machine unlearning of NLP models: fine-tune on what stays, and measure what is left of what must go."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api.functions import Result as Result
    from .api.functions import Trained as Trained
    from .api.functions import attack as attack
    from .api.functions import evaluate as evaluate
    from .api.functions import train as train
    from .api.functions import unlearn as unlearn
    from .data.request.records import Records as Records
    from .data.split import RetainedSplit as RetainedSplit
    from .data.split import split_retained as split_retained
    from .errors import InputError as InputError
    from .evaluation.report import UnlearningReport as UnlearningReport
    from .publishing.publish import publish as publish
    from .sharding.serving import load_sharded as load_sharded
    from .training.config import UnlearningConfig as UnlearningConfig
    from .training.trainer import UnlearningTrainer as UnlearningTrainer

__version__ = "0.2.0"

_HOMES = {
    "InputError": "errors",
    "Records": "data.request.records",
    "Result": "api.functions",
    "RetainedSplit": "data.split",
    "Trained": "api.functions",
    "UnlearningConfig": "training.config",
    "UnlearningReport": "evaluation.report",
    "UnlearningTrainer": "training.trainer",
    "attack": "api.functions",
    "evaluate": "api.functions",
    "load_sharded": "sharding.serving",
    "publish": "publishing.publish",
    "split_retained": "data.split",
    "train": "api.functions",
    "unlearn": "api.functions",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    # torch and transformers take seconds to import; `hf-unlearn --help` needs neither.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return vars(import_module(f".{_HOMES[name]}", __name__))[name]
