"""The commands: what each does, its flags, and the job that it starts."""

import argparse
from pathlib import Path

from ..errors import InputError
from .command import DIGEST_KEY, Command, argument, hidden_words
from .helping import HELPING


def _one_id(word: str) -> str:
    try:
        lines = hidden_words("--id", word)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removesuffix(".")) from None
    if len(lines) > 1:
        raise argparse.ArgumentTypeError("it takes one id, and there are several lines")
    return lines[0]


RECIPE = "--config recipe.yaml"
LAST_CHECKPOINT = "goes on from the last checkpoint"
MODEL = argument("place", metavar="FOLDER|REPO", help="The model: a folder, or a repository on the Hub (owner/name).")
MODEL_REVISION = argument(
    "--model_revision", dest="revision", metavar="REVISION", help="The model's branch, tag or commit on the Hub."
)
RUN_FOLDER = argument("folder", type=Path, metavar="FOLDER", help="The folder of a finished run: its --output_dir.")
CERTIFICATE = "The certificates of the authority that stamps, as PEM: its root, and those between."

COMMANDS = {
    "run": Command(
        "unlearning.run",
        RECIPE,
        "unlearn, measure, and write the model, a report and a card",
        """\
Make a fine-tuned model forget records, and measure whether it forgot them.

The command splits the data set (D) into the records to forget (S) and the retained records (L). Held-out records (H),
which no model was trained on, are the comparison: a model that forgot S treats S like H. The unlearned model,
unlearning_report.json and a model card go to --output_dir. With --push the command then publishes that folder.

--method auto, the default, fine-tunes the base model on L where the base model is known. This is exact for that stage
of training. The training ends once more of it would bring little, at the latest as a retraining does; --budget bounds
it. Neither S nor the original has a say in that. Where no base is known, an approximate method is taken.

--method dial moves the original toward the base model, or toward a fresh initialisation where no base is known. It
searches for the smallest move that forgets, with short trainings. One half of S and H guides the search; the other
half judges the result.

Both show the expected cost first, and count all that they try. After an interruption the same command continues.

Of a model that `hf-unlearn train --shards` made, the command trains only those adapters again that saw a record of S.
It copies all others byte for byte, or with --drop leaves the touched ones out.

  hf-unlearn run --model_name_or_path acme/router --dataset_name acme/messages \\
    --forget_id_column customer_id --forget_ids ids.txt --output_dir unlearned""",
        resumes=LAST_CHECKPOINT,
    ),
    "split": Command(
        "preparation.split",
        RECIPE,
        "show which records a request selects; nothing is trained",
        """\
Show what a request would do: how many records it selects, how many stay, and which copies stay behind. The command
trains nothing and writes no model. Use it first, to check a request.

  hf-unlearn split --dataset_name acme/messages --forget_id_column customer_id --forget_ids ids.txt""",
    ),
    "train": Command(
        "training_runs.train",
        RECIPE,
        "train the original model, with the record that later runs read",
        """\
Fine-tune a model on the data set (D), the usual way. The folder also gets training_record.json, which says how the
model was trained and what that cost. A later `hf-unlearn run` reads its learning rate, base model and budget there.
The settings stand in the section `original` of a recipe.

With --shards the command deals the owners of the records into so many shards, and trains one LoRA adapter for each. To
forget an owner later is then to train one adapter again. With --shard_processes several are trained at once.

  hf-unlearn train --model_name_or_path acme/base --dataset_name acme/messages --output_dir original""",
        resumes=LAST_CHECKPOINT,
    ),
    "alternates": Command(
        "alternates.alternates",
        RECIPE,
        "let a model invent other answers to the records, for the method altpo",
        """\
Let a model invent other answers to the prompts of the records to forget. The method altpo trains on these in place of
the records' own answers. The original writes them, or the model that --generator names.

The answers go to --alternates_file. This file is private, because it shows what the records are about. After an
interruption the same command continues.

  hf-unlearn alternates --config recipe.yaml --alternates_file alternates.jsonl""",
        resumes="goes on from there",
    ),
    "references": Command(
        "reference_models.references",
        RECIPE,
        "train models that never saw the records, to compare a run with",
        """\
Train several models to compare a run with, each with a seed of its own, and show how they treat the records to forget
(S) and the held-out records (H). They are saved in the folder references/ of --output_dir. `hf-unlearn run` with the
same --output_dir then compares with them.

The same command continues after an interruption. With more --seeds or --arms it adds models to those that are there.

With three or more models of the kind `unlearned` and of another kind, references.json also says how far the two kinds
are apart. It holds a lower bound of epsilon, from models that had no part in choosing the attack, and the largest
bound that so many models could give. It also holds the score F of the 2023 unlearning challenge, beside the F of
models that are alike, and the AUC of U-LiRA. epsilon_histogram.png draws the scores. H is the control: neither kind
was trained on it.

  hf-unlearn references --config recipe.yaml --seeds 8 --arms retrained unlearned""",
        resumes=LAST_CHECKPOINT,
    ),
    "evaluate": Command(
        "evaluating.evaluate",
        RECIPE,
        "measure a model that another tool unlearned",
        """\
Measure whether a model has forgotten records, whatever tool unlearned it. Nothing is trained. The command writes the
same report as `hf-unlearn run`, to --output_dir ("evaluation" by default). Name the original and a retrained model
where you have them: the report then compares the three.

  hf-unlearn evaluate --model_name_or_path unlearned --original_model acme/router \\
    --dataset_name acme/messages --forget_id_column customer_id --forget_ids ids.txt""",
    ),
    "attack": Command(
        "attacking.attack",
        RECIPE,
        "try to bring the records back: by training, rounding and prompting",
        """\
Try to bring the forgotten records (S) back: by further training, by rounding the weights, by many samples and by other
prompts. The attacks work on copies; the model stays as it is. Name the original and a retrained model where you have
them: what also comes back from the retrained model was never memory.

The command writes attacks.json and its plots to --output_dir ("attacks" by default).

  hf-unlearn attack --config recipe.yaml --model_name_or_path unlearned --original_model acme/router""",
    ),
    "card": Command(
        "finished_run.card",
        "FOLDER",
        "write the model card of a finished run again",
        "Write README.md, the model card of a finished run, again from unlearning_report.json in the folder.",
        (RUN_FOLDER,),
    ),
    "push": Command(
        "finished_run.push",
        "FOLDER --hub_model_id owner/name",
        "publish a finished run in one commit",
        """\
Publish a finished run on the Hub: the model (--hub_model_id), the data set without the forgotten records
(--retained_dataset), or both. Each is one commit.

  hf-unlearn push unlearned --hub_model_id acme/router-unlearned""",
        (
            RUN_FOLDER,
            argument("--hub_model_id", metavar="REPO", help="The model's repository, owner/name; created if missing."),
            argument(
                "--retained_dataset",
                metavar="REPO",
                help="Publish the data set D here, without all records that the ledger lists as forgotten. A new "
                "repository is private unless D is public.",
            ),
            argument(
                "--dataset_name",
                metavar="NAME",
                help="D for --retained_dataset; needed if the run did not read D from the Hub.",
            ),
            DIGEST_KEY,
            argument("--hub_private_repo", dest="private", action="store_true", default=None, help="Make it private."),
            argument("--hub_revision", dest="revision", metavar="BRANCH", help="The branch to publish the model to."),
            argument(
                "--push_anyway",
                action="store_true",
                help="Publish also when the verdict is not_forgotten or over_forgotten, or the utility is lost.",
            ),
            argument(
                "--push_to_existing", action="store_true", help="Publish also to a repository that has files already."
            ),
            argument(
                "--tell_users_to_move",
                action="store_true",
                help="In the card, ask users of the original to move to this model.",
            ),
        ),
    ),
    "ledger": Command(
        "",
        "show FOLDER|REPO",
        "show what a model was made to forget so far; also verify, prove and stamp",
        """\
Read the ledger of a model: unlearning_ledger.jsonl, a chain with one line for each request that the model was made to
forget. The ledger holds digests with a secret key, and no ids.

  hf-unlearn ledger show acme/router-unlearned
  hf-unlearn ledger prove acme/router-unlearned --column customer_id --id 4711""",
        actions={
            "verify": Command(
                "ledger.verify",
                "FOLDER|REPO",
                "check the chain, and the report and the weights beside it",
                arguments=(
                    MODEL,
                    MODEL_REVISION,
                    DIGEST_KEY,
                    argument("--authority_certificate", type=Path, metavar="FILE", help=CERTIFICATE),
                    argument(
                        "--time_stamp",
                        type=Path,
                        metavar="FILE",
                        help="A time stamp that you kept elsewhere; by default the one beside the ledger.",
                    ),
                ),
            ),
            "show": Command("ledger.show", "FOLDER|REPO", "show each line", arguments=(MODEL, MODEL_REVISION)),
            "prove": Command(
                "ledger.prove",
                "FOLDER|REPO --column COLUMN --id ID",
                "say whether an id was forgotten, and by which run",
                "Say whether an id was forgotten, and by which run. The exit code is 1 if the ledger lacks it.",
                (
                    MODEL,
                    MODEL_REVISION,
                    argument(
                        "--id",
                        dest="value",
                        metavar="ID",
                        required=True,
                        type=_one_id,
                        help="The id; it is never printed. Others on this machine can see it in the list of "
                        "processes: @FILE reads it from a file, and - from standard input.",
                    ),
                    argument("--column", required=True, help="The column of the data set that held the id."),
                    DIGEST_KEY,
                ),
            ),
            "stamp": Command(
                "ledger.stamp",
                "FOLDER --authority URL --authority_certificate FILE",
                "have an authority state the time of the last line",
                """\
Have an authority for time stamps (RFC 3161) state when the ledger had its last line. The authority gets one digest.
The stamp goes to unlearning_ledger.tsr beside the ledger. Keep a copy elsewhere: with it `hf-unlearn ledger verify`
shows whether somebody put everything back to an earlier state.""",
                (
                    RUN_FOLDER,
                    argument("--authority", metavar="URL", required=True, help="The authority's address."),
                    argument("--authority_certificate", type=Path, metavar="FILE", required=True, help=CERTIFICATE),
                ),
            ),
        },
    ),
    "erase": Command(
        "erasing.erase_old",
        "REPO [--yes]",
        "delete the old weights, on the Hub or (--cache) on this machine",
        """\
Erase what a repository on the Hub held before its model forgot: every older commit, branch and tag, and the large
files that main does not use. Only the files of main stay, in one commit.

  hf-unlearn erase acme/router
      shows what would go, what would stay, and what no program can delete

  hf-unlearn erase acme/router --yes
      asks you to type the repository's name, and erases; then tries to
      download each old revision and file, lists what still answers, and
      commits erasure_report.json, with a line in the ledger where there is one

  hf-unlearn erase --cache acme/router --output_dir out
      shows the old copies on this machine: revisions in the Hub's cache other
      than the newest unlearned one, tables of the data set, and what the run
      in that folder wrote before its verdict; --yes deletes them

Nothing undoes it. After an interruption the same command continues. The repository must be yours, and the verdict on
main must be exact, certified or not_distinguished. A data set has no verdict: make sure that its main branch holds
what stays. Tags are deleted, and so are branches whose files differ from those of main.""",
        (
            argument("repos", nargs="*", metavar="REPO", help="The repository, owner/name."),
            argument("--repo_type", choices=("model", "dataset"), default="model", help="What it holds."),
            argument("--dry_run", action="store_true", help="Show what would go, and change nothing; the default."),
            argument("--yes", action="store_true", help="Erase."),
            argument(
                "--confirm", metavar="REPO", help="The repository's name once more, for scripts: nobody can type it."
            ),
            argument(
                "--whatever_the_verdict",
                action="store_true",
                help="Erase also when the verdict is another one, or unknown.",
            ),
            argument("--output", type=Path, metavar="FILE", help="Also write the report to this file."),
            argument("--cache", action="store_true", help="Erase on this machine, not on the Hub."),
            argument("--output_dir", type=Path, metavar="FOLDER", help="With --cache: the folder of a finished run."),
        ),
        resumes="goes on from there",
    ),
    "plan": Command(
        "epsilon_plan.plan",
        "--epsilon 2",
        "say how many models the proof of an epsilon needs, and their price",
        """\
Say how many models are needed to prove that unlearned models differ from retrained ones by more than an epsilon, and
what training them costs. Use it before `hf-unlearn references`. Nothing is trained.

  hf-unlearn plan --epsilon 2 --model_name_or_path acme/router""",
        (
            argument("--epsilon", type=float, required=True, help="Prove that the true epsilon is above this."),
            argument("--delta", type=float, default=1e-5, help="The delta of the definition."),
            argument(
                "--model_name_or_path",
                metavar="MODEL",
                help="The original, a folder or Hub id. Its training record says what a training costs.",
            ),
            argument("--model_revision", metavar="REVISION", help="The original's branch, tag or commit on the Hub."),
            argument("--budget", type=float, help="The price of one unlearning, as a fraction of a training."),
        ),
    ),
    "plan-shards": Command(
        "sharded.plan_shards",
        "--owners 10000 ...",
        "say what deletions will cost if the data are dealt into shards",
        """\
Say what a year of deletion requests costs if `hf-unlearn train --shards` deals the owners of the records into shards,
by the number of shards and slices. The command simulates the year. Nothing is trained.

  hf-unlearn plan-shards --owners 10000 --rows_each 20 --requests_a_month 20 --adapter_mb 5""",
        (
            argument("--owners", type=int, required=True, help="How many owners (customers, authors) there are."),
            argument("--rows_each", type=float, default=10, help="Rows of an owner, on average."),
            argument("--requests_a_month", type=float, required=True, help="Owners who ask, on average."),
            argument("--adapter_mb", type=float, metavar="MB", help="The size of one adapter, for the storage."),
            argument("--shards", type=int, nargs="+", metavar="N", help="Numbers of shards to try."),
            argument("--slices", type=int, nargs="+", metavar="K", help="Numbers of slices to try with each."),
            argument(
                "--model_name_or_path",
                metavar="MODEL",
                help="A model trained on these data, a folder or Hub id. Its training record says what that took.",
            ),
            argument("--model_revision", metavar="REVISION", help="The model's branch, tag or commit on the Hub."),
        ),
    ),
    "derived": Command(
        "derived.derived",
        "owner/name",
        "list the models made from a model on the Hub, with texts for their owners",
        """\
List all models on the Hub that were made from a model, and those made from them in turn: fine-tuned models, adapters,
merges and quantised copies. They may still know what the model has forgotten. Nothing is posted: --message writes a
text for each owner, for you to send.

  hf-unlearn derived acme/router --unlearned acme/router-unlearned --message owners.md""",
        (
            argument("model", metavar="REPO", help="The model, owner/name; it may be deleted already."),
            argument(
                "--unlearned",
                metavar="FOLDER|REPO",
                help="The unlearned model. Its report says what was unlearned and when. The model itself by default, "
                "if it has a report.",
            ),
            argument("--output", type=Path, metavar="FILE", help="Write the list to this file, as JSON."),
            argument("--message", type=Path, metavar="FILE", help="Write a text for each owner here, as Markdown."),
            argument("--max_models", type=int, default=1000, help="Stop after this many models."),
        ),
    ),
    "audit": Command(
        "finished_run.audit",
        "FOLDER|REPO",
        "write one HTML page about a finished run for an auditor",
        """\
Write one HTML page about a finished run, for a reader who is no programmer: the request, what was done, the evidence,
and what is left to do.

  hf-unlearn audit acme/router-unlearned --output audit.html""",
        (
            argument("place", metavar="FOLDER|REPO", help="The run's output folder, or its repository on the Hub."),
            argument("--output", type=Path, default=Path("audit.html"), metavar="FILE", help="The file to write."),
            argument("--revision", help="A branch, tag or commit of the repository."),
        ),
    ),
    **HELPING,
}
CONFIGURED = [name for name, command in COMMANDS.items() if command.usage == RECIPE]
