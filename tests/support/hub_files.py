"""What the Hub on localhost reads inside files: the metadata of cards, and the shards of Xet."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any

import yaml


def xet_files(shard: bytes) -> Iterator[tuple[str, str]]:
    """The SHA-256 and the Xet hash of every file that a shard describes, in records of 48 bytes."""

    def hexadecimal(record: bytes) -> str:
        return "".join(f"{word:016x}" for word in struct.unpack("<4Q", record[:32]))

    at = 48  # behind the header
    while not (record := shard[at : at + 48]).startswith(b"\xff" * 32):
        flags, segments = struct.unpack("<II", record[32:40])
        # The segments, as many records that verify them if the first bit is set, and that of the SHA-256.
        at += 48 * (1 + segments * (2 if flags >> 31 else 1))
        yield hexadecimal(shard[at : at + 48]), hexadecimal(record)
        at += 48


def card_metadata(readme: str) -> dict[str, Any]:
    """The YAML at the top of a card; ValueError if the Hub would refuse it."""
    block = re.match(r"\s*---[ \t]*\r?\n(.*?)^---[ \t]*$", readme, re.DOTALL | re.MULTILINE)
    try:
        card = (yaml.safe_load(block[1]) if block else None) or {}
        for key in ("base_model", "datasets", "language", "library_name", "license", "pipeline_tag", "tags"):
            values = card.get(key)
            values = values if isinstance(values, list) else [] if values is None else [values]
            if not all(isinstance(value, str) for value in values):  # `language: no` is a boolean in YAML
                raise ValueError(f'"{key}" must be a string or a list of strings')
        for result in [result for model in card.get("model-index") or [] for result in model["results"]]:
            _ = result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]
            _ = [(metric["type"], metric["value"]) for metric in result["metrics"]]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"Invalid or incomplete YAML: {error!r}") from error
    return card
