"""The commands that help around a run: they train nothing."""

from pathlib import Path

from .command import DIGEST_KEY, Command, argument

HELPING = {
    "methods": Command(
        "helping.method_list.methods",
        "[NAME]",
        "list the methods by what they need, with price and source",
        """\
List the methods by what they need: the base model, the records to forget (S) or held-out records (H). With a name, the
command explains one method.

  hf-unlearn methods npo""",
        (argument("name", nargs="?", metavar="NAME", help="The method to explain."),),
    ),
    "guard": Command(
        "helping.guarding.guard",
        "DATASET --ledger FOLDER|REPO",
        "say whether new data holds what was forgotten before",
        """\
Look through new data for rows that a model was made to forget: by an id or their content, as the model's ledger has
them, and for copies and near copies of these. The exit code is 1 where there are any, and 0 where there are none.

  hf-unlearn guard acme/new-messages --ledger acme/router-unlearned --drop_to clean""",
        (
            argument("dataset", metavar="DATASET", help="The new data: a Hub id, a folder or a file."),
            argument("--ledger", metavar="FOLDER|REPO", required=True, help="The model whose ledger says what."),
            argument("--dataset_config", metavar="NAME", help="The configuration (subset) of the data."),
            DIGEST_KEY,
            argument(
                "--forgotten",
                metavar="DATASET",
                help="The data set that the records were forgotten from. Copies of all of them are looked for then.",
            ),
            argument(
                "--rename",
                nargs="+",
                metavar="OLD=NEW",
                help="The new name of a column that the ledger recognises records by.",
            ),
            argument(
                "--skip_missing",
                action="store_true",
                help="Pass over records that cannot be recognised because a column is missing.",
            ),
            argument("--drop_to", type=Path, metavar="FOLDER", help="Write the data without these rows here."),
            argument(
                "--processes",
                type=int,
                default=0,
                metavar="N",
                help="Processes that look for ids; 0 is one a core, where there are rows enough.",
            ),
        ),
    ),
    "init": Command(
        "helping.recipe_writing.init",
        "",
        "write a first recipe, with held-out records like those to forget",
        """\
Ask for the model, the data and the ids to forget, look at them, and write a commented recipe. Held-out records are
chosen among records that the model never saw: with the labels and lengths of those to forget, and without customers or
texts that the model saw. The command says how good they are, and which command comes next.

  hf-unlearn init
  hf-unlearn init --model_name_or_path acme/router --dataset_name acme/messages --holdout_split test \\
    --forget_id_column customer_id --forget_ids - < ids.txt""",
        (
            argument("--model_name_or_path", metavar="MODEL", help="The model: a folder or Hub id."),
            argument("--dataset_name", metavar="DATA", help="The data it was trained on: a Hub id, folder or file."),
            argument("--forget_id_column", metavar="COLUMN", help="The column of the ids."),
            argument(
                "--forget_ids", metavar="FILE", help="A file of ids to forget, one a line; - for standard input."
            ),
            argument("--holdout_split", metavar="SPLIT", help="A split of the data that the model never saw."),
            argument("--holdout_dataset", metavar="DATA", help="Or another data set that it never saw."),
            argument("--base_model_name_or_path", metavar="MODEL", help="The model that it was fine-tuned from."),
            argument("--task", metavar="TASK", help="Its task; by default read from its architecture."),
            argument("--dataset_config", metavar="NAME", help="The configuration (subset) of the data."),
            argument("--dataset_train_split", metavar="SPLIT", default="train", help="The split it was trained on."),
            argument(
                "--dataset_text_field", metavar="COLUMN", help="The column of the text; found where that is clear."
            ),
            argument("--dataset_label_field", metavar="COLUMN", help="The column of the class; found likewise."),
            argument("--output_dir", metavar="FOLDER", help="Where the run will put its result."),
            argument("--recipe", type=Path, metavar="FILE", default=Path("recipe.yaml"), help="The recipe to write."),
        ),
    ),
    "suite": Command(
        "helping.suites.suite",
        "NAME --data DATA --model_name_or_path MODEL",
        "measure a model on a suite of the field: muse, rwku, wmdp or knowundo",
        """\
Measure a language model on a suite for unlearning, from its authors' files: MUSE, RWKU, WMDP or KnowUnDo. Nothing is
trained. The command shows each number with its interval, and writes them to suite_report.json. Name the original and a
retrained model where you have them.

  hf-unlearn suite muse --data muse-bench/MUSE-News --model_name_or_path unlearned --retrained_model retrained""",
        (
            argument("name", choices=("muse", "rwku", "wmdp", "knowundo"), help="The suite."),
            argument("--data", metavar="DATA", required=True, help="Its files: a Hub id, or a folder of the same."),
            argument("--data_revision", metavar="REVISION", help="Their branch, tag or commit on the Hub."),
            argument("--model_name_or_path", metavar="MODEL", required=True, help="The model: a folder or Hub id."),
            argument("--model_revision", metavar="REVISION", help="Its branch, tag or commit on the Hub."),
            argument("--original_model", metavar="MODEL", help="The model before unlearning."),
            argument("--retrained_model", metavar="MODEL", help="A model trained on the retained records alone."),
            argument("--domain", choices=("copyright", "privacy"), help="The part of KnowUnDo."),
            argument(
                "--prompts",
                type=Path,
                metavar="FILE",
                help="The words around the questions, as JSON; ours by default.",
            ),
            argument("--records", type=int, metavar="N", help="Records of each set, drawn at random; all by default."),
            argument("--seed", type=int, default=42, metavar="N", help="The seed of all draws."),
            argument("--per_device_eval_batch_size", type=int, default=8, metavar="N", help="Records at once."),
            argument(
                "--dtype",
                choices=("float32", "bfloat16", "float16", "auto"),
                default="float32",
                help="The data type of the weights; auto: as stored.",
            ),
            argument("--use_cpu", action="store_true", help="Use the CPU where there is an accelerator, too."),
            argument(
                "--output_dir", type=Path, default=Path("suite"), metavar="FOLDER", help="Where the report goes."
            ),
        ),
    ),
    "whereabouts": Command(
        "helping.whereabouts.whereabouts",
        "--ids FILE --models OWNER ...",
        "say which models were trained on these records",
        """\
Say of each model how many ids it was trained on, had to forget or never had, and for how many nobody can tell. Models
that `hf-unlearn train` and `hf-unlearn run` made have a filter of their training rows beside them, which only your key
opens. The command also reads the ledgers, and the filters of base models. It prints no id.

  hf-unlearn whereabouts --ids ids.txt --column customer_id --models acme
  hf-unlearn whereabouts --ids - --column customer_id --models original router-unlearned < ids.txt""",
        (
            argument(
                "--ids",
                metavar="FILE",
                required=True,
                help="A file of ids, one a line (.txt, .csv or .jsonl); - for standard input.",
            ),
            argument("--column", metavar="NAME", required=True, help="The column of the data that holds these ids."),
            argument(
                "--models",
                metavar="MODEL",
                nargs="+",
                required=True,
                help="Folders, Hub ids, owners on the Hub (all of their models), or files of these, one a line.",
            ),
            argument("--digest_key_file", metavar="FILE", help="The key that the models were trained with."),
            argument(
                "--output", type=Path, metavar="FILE", help="Write the state of each line of ids to this private file."
            ),
        ),
    ),
}
