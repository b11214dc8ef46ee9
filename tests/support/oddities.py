"""What the fuzz tests put where something sound is expected."""

from typing import Any

import pyarrow as pa

# In every text and every id of a case, and nowhere else: no output may hold one of them.
MARKS = ("ZQtext", "ZQid")
LABELS = ("<img src=x onerror=alert(1)>", "[a](javascript:b) **c** | d", "other")
TEXTS = (
    "", " ", "\n", "\t\r\n", "\x00", "\x1b[31m", "\x1e\x1f", "\x85", "\u2028\u2029", "\ufeff", "\u200b\u200d",
    "\u202eright to left\u202c", "مرحبا بالعالم", "שלום עולם", "e\u0301", "\u00e9", "ﬁ", "😀" * 40,
    "\U0001f1e9\U0001f1ea", "a" * 3000, "word " * 700, "<script>alert(1)</script>", "| a | b |", "[x](http://evil)",
    "```\n---\n# big", "---", "{{ 7 * 7 }}", "{question}", "{", "None", "null", "NaN", "nan", "NA", "true", "-1",
    "007", "1e400", "=1+1", "'\"\\", "<|end|>", "<assistant>",
)  # fmt: skip
NAMES = (
    "plain", "two words", "<script>alert(1)</script>"[:-9], "[x](evil)", "**bold** _it_ `code`", "a|b", "[red]",
    "[_b]", "~~gone~~", "-dash", "--push", "e\u0301", "مرحبا", "\u202egnp", "a\nb", "a\n# big", "\n---\n", "a\tb",
    '"quoted"', "it's", "&lt;b&gt;", "$(rm x)", "%s{0}", "{name}", "#", "a: b", "\x1b[31m", "\x7f", "😀", "a\\",
    "a\"]\n```\n<b>", "\udcff", "http:evil", "a@b", "...", "None", "true", "1.5", "a" * 200,
)  # fmt: skip
COLUMNS = (
    "input_ids", "attention_mask", "labels", "row", "truncated", "length", "set", "loss", "", " ", "\n", "\x00",
    "id ", "ID", "a.b", "a=b", "\u00e9", "e\u0301", "__index_level_0__", "indices", "label_ids", "messages",
    "prompt", "text", "label", "completion", "0", "__key__", "image", "[/red]", "a" * 300,
)  # fmt: skip
ARROW_TYPES = (
    pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.int8(), pa.uint64(),
    pa.int64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_(), pa.null(), pa.binary(), pa.large_binary(),
    pa.date32(), pa.date64(), pa.timestamp("ns"), pa.timestamp("us", tz="UTC"), pa.time32("s"), pa.time64("us"),
    pa.duration("s"), pa.decimal128(12, 3), pa.decimal256(50, 2), pa.list_(pa.string()), pa.large_list(pa.int32()),
    pa.list_(pa.list_(pa.string())), pa.struct([("role", pa.string())]),
    pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), pa.map_(pa.string(), pa.string()),
    pa.list_(pa.float32(), 2),
)  # fmt: skip
SAMPLES: dict[str, Any] = {
    "string": "ZQtext s", "large_string": "ZQtext l", "string_view": "ZQtext v", "int8": 1, "uint64": 2**64 - 1,
    "int64": 2**63 - 1, "halffloat": 0.5, "float": 1.5, "double": float("nan"), "bool": True, "null": None,
    "binary": b"ZQtext \xff", "large_binary": b"ZQtext \x00",
}  # fmt: skip
GARBAGE = (
    b"", b"\n", b"\x00", b"\xff\xfe\x00", b"\xef\xbb\xbf", b"{", b"[]", b"{}", b"[1, 2]", b"null\n", b"PAR1",
    b'"ZQtext"\n', b"id,text,label\n", b"a record,its label\nZQtext c,x\n", b'id,text\n"ZQtext open,ZQid-0\n',
    b"id,text\nZQid-0,ZQtext\xff\n", b'{"text": "ZQtext"}\n{"text": ["ZQtext"]}\n',
    b'{"text": "ZQtext"}\n{"txt": "ZQtext"}\n', b'{"text": "ZQtext", "text": "ZQtext b"}\n',
    b"id,id,text\nZQid-0,ZQid-1,ZQtext\nZQid-2,ZQid-3,ZQtext\n",
    b'{"id": 1, "text": "ZQtext"}\n{"id": "ZQid-0", "text": "ZQtext"}\n',
    b"id\ttext\nZQid-0\tZQtext a\tZQtext b\nZQid-1\tx\n", b'[{"text": "ZQtext"}, {"text": null}]',
    b'{"text": NaN}\n' * 3,
)  # fmt: skip
RECIPES = (
    b"", b"- a", b"a: [", b"seed: 1\nseed: 2\n", b"\xff\xfe", b"seed: ZQid\xff", b"seed: 1.5", b"seed: [1, 2]",
    b"seed: {a: 1}", b"1: 2", b"null: 2", b"[1]: 2", b"{a: 1}: 2", b"original: 1", b"original: [a]",
    b"original: text", b"a: &a [*a]\n", b"seed: &a [*a]\n", b"forget_values: &a [*a]\n",
    b"forget_values:\n  - id=ZQid-0\n  - [: \n", b"forget_values: {id: ZQid-0}", b"forget_rows: ZQid-0",
    b"forget_rows: [ZQid-0]", b"forget_rows: [null]", b"learning_rate: .nan", b"learning_rate: -1",
    b"learning_rate: 1e999", b"max_length: 1e400", b"dataset_text_field: [text, id]",
    b"dataset_text_field: 2020-01-01", b"dataset_text_field: yes", b"task: text", b"method: [base]",
    b"!!python/object/apply:os.system [ls]", b"seed: !!binary aGk=", b"%YAML 9.9\n---\n", b"a: b: c",
    b"---\nseed: 1\n---\nseed: 2\n", b"? [" * 300, b"[" * 3000, b"\x00", b"seed: 1\x00", "seed: \u0661".encode(),
    b"lr_scheduler_kwargs: {a: .nan}", b"forget_values: [true]", b"lr_scheduler_kwargs: text", b"push: maybe",
    b"fsdp: [a, b]", b"output_dir: [a, b]", b"output_dir: 1", b"forget_id_column: null",
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nseed: [*b,*b,*b,*b,*b,*b,*b,*b,*b]",
)  # fmt: skip
ODD_SETTINGS: tuple[tuple[str, Any], ...] = (
    ("max_length", 0), ("max_length", 1), ("max_length", 2), ("max_length", 3), ("max_length", -5),
    ("max_length", 10**9), ("dataset_text_field", "id"), ("dataset_text_field", "\n"), ("dataset_text_field", ""),
    ("dataset_text_field", "label"), ("dataset_label_field", "id"), ("dataset_label_field", "text"),
    ("prompt_template", "{text}"), ("completion_template", "{text}"), ("task", "text-generation"),
    ("task", "text-classification"), ("task", "nothing"), ("seed", -1), ("seed", 2**70), ("learning_rate", "nan"),
    ("learning_rate", "inf"), ("learning_rate", -1), ("learning_rate", 1e30), ("max_steps", 0),
    ("num_train_epochs", 0), ("num_train_epochs", "nan"), ("per_device_train_batch_size", 0),
    ("per_device_eval_batch_size", 0), ("per_device_train_batch_size", -1), ("measure_steps", 1),
    ("measure_steps", "nan"), ("stop_when_forgotten", True), ("auc_margin", "nan"), ("alpha", 2), ("alpha", "nan"),
    ("budget", 1), ("method", "base"), ("method", "toward_base"), ("method", "shrink_perturb"),
    ("train_last_layers", 1), ("train_last_layers", 9), ("use_peft", True), ("lora_r", 0),
    ("lora_target_modules", ["nothing"]), ("duplicates", "forget"), ("duplicates", "error"),
    ("duplicates", "ignore"), ("near_duplicates", "forget"), ("near_duplicates", "error"),
    ("near_duplicates", "ignore"), ("near_duplicates_review", "HERE"), ("near_duplicates_review", ""),
    ("near_duplicates_review", "HERE/taken/deeper"), ("near_duplicates_review", "a" * 300),
    ("near_duplicates_encoder", "HERE"), ("near_duplicates_encoder", "MODEL"), ("near_duplicates_encoder", ""),
    ("dataset_streaming", True),
    ("dataset_train_split", "test"), ("dataset_train_split", "\n[/b]"), ("dataset_test_split", "test"),
    ("dataset_test_split", ""), ("dataset_config", "nothing"), ("digest_key_file", "HERE"),
    ("digest_key_file", "HERE/taken/deeper"), ("eval_strategy", "no"), ("dataloader_num_workers", -1),
    ("digest_key_file", "HERE/taken"), ("base_model_name_or_path", "HERE"), ("base_model_name_or_path", "MODEL"),
    ("retrained_model", "MODEL"), ("retrained_model", "HERE"), ("retrained_model", ""), ("model_name_or_path", ""),
    ("model_name_or_path", "HERE"), ("model_name_or_path", "a/b/c"), ("model_name_or_path", "\n"),
    ("dataset_name", ""), ("dataset_name", "HERE"), ("dataset_name", "no/such"), ("dataset_name", "a\nb"),
    ("dataset_name", "\x00"), ("output_dir", ""), ("output_dir", "a" * 300), ("dataset_name", "a" * 300),
    ("model_name_or_path", "a" * 300), ("output_dir", "HERE/taken"), ("output_dir", "HERE/taken/deeper"),
    ("optim", "nothing"), ("lr_scheduler_type", "nothing"), ("lr_scheduler_kwargs", "text"), ("warmup_steps", -1),
    ("dtype", "bfloat16"), ("attn_implementation", "nothing"), ("bf16", True), ("gradient_accumulation_steps", 0),
    ("logging_steps", 0), ("save_strategy", "best"), ("eval_strategy", "epoch"),
    ("train_sampling_strategy", "nothing"), ("report_to", "nothing"), ("weight_decay", "nan"),
    ("max_grad_norm", -1), ("resume_from_checkpoint", "HERE"),
)  # fmt: skip
ODD_SETTINGS_OF: dict[str, tuple[tuple[str, Any], ...]] = {
    "run": (("references", "HERE"), ("references", "HERE/taken"), ("references", "a" * 300), ("references", "")),
    "evaluate": (("references", "MODEL"), ("references", "HERE/none"), ("references", "\x1b[31m")),
    "references": (
        ("seeds", 0), ("seeds", -1), ("seeds", 2), ("seeds", 3), ("seeds", 2**32), ("seeds", 2**70), ("seeds", "x"),
        ("arms", ["nothing"]), ("arms", ["unlearned"]), ("arms", ["retrained", "unlearned"]),
        ("arms", ["same_budget"]), ("arms", ["retrained_unlearned"]),
        ("arms", ["retrained", "retrained"]), ("delta", "nan"), ("delta", 0), ("delta", 1), ("delta", -1e-9),
        ("delta", "inf"), ("seed", 2**32 - 1), ("references", "HERE"),
    ),
    "attack": (
        ("attack_steps", 0), ("attack_steps", -1), ("attack_steps", 2), ("attack_steps", 1.5), ("attack_steps", "x"),
        ("original_model", "HERE"), ("original_model", "MODEL"), ("load_in_8bit", True), ("seeds", 1),
    ),
    "alternates": (
        ("alternates_per_record", 0), ("alternates_per_record", -1), ("alternates_per_record", "x"),
        ("alternates_per_record", 1), ("alternates_per_record", 2**70),
        ("alternates_prompt", ""), ("alternates_prompt", "no field"), ("alternates_prompt", "{"),
        ("alternates_prompt", "{prompt}"), ("alternates_prompt", "{prompt} {completion}" * 20),
        ("alternates_prompt", "{nothing}"), ("alternates_prompt", "{prompt.upper}"),
        ("alternates_prompt", "\u202e{prompt}"), ("alternates_file", ""), ("alternates_file", "HERE"),
        ("alternates_file", "HERE/taken"), ("alternates_file", "HERE/taken/under"),
        ("alternates_file", "HERE/none/private.jsonl"), ("alternates_file", "OUT/private.jsonl"),
        ("alternates_file", "a" * 300), ("alternates_file", None),
        ("generator", "MODEL"), ("generator", "HERE"), ("generator", "HERE/none"), ("generator", ""),
        ("generator", "\x1b[31m"), ("per_device_eval_batch_size", 0), ("per_device_eval_batch_size", 1),
    ),
}  # fmt: skip
TEMPLATES = (
    "{text}", "{id}: {text}", "", "no field", "{", "{}", "{0}", "{text!r}", "{text:>9}", "{text.upper}",
    "{nothing}", "{text}{text}", "{{text}}", "```\n{text}", "<b>{text}</b>|`", "{text}\n", "\u202e{text}", "{id}",
    "{label}", "{}{text}", "{text[0]}",
)  # fmt: skip
