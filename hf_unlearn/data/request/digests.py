"""Keyed digests, the only form in which ids leave this package."""

import hashlib
import hmac
import logging
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock

from ...errors import InputError
from ...files import require_file, written_privately
from ..canonical import FRACTIONS, is_number

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForgottenDigests:
    """Keyed digests of forgotten records, to recognise them in D again.

    Attributes:
        columns: what a digest is made of: one column of ids, or those of a whole row.
        whole_rows: whether a digest is of a row's content, not of an id.
        digests: 64 hexadecimal characters each, sorted, so that their order says nothing.
        types: what each of these columns held, see :func:`~hf_unlearn.data.canonical.kind_of`, with a word on
            fractions. As ``form`` and ``found``, it is None in ledgers from before this was noted, whose digests are
            of other texts.
        form: ``integer`` where all are ids written as whole numbers are, or else ``text``.
        found: how many of them the data set had.
    """

    columns: list[str]
    whole_rows: bool
    digests: list[str]
    types: list[str] | None = None
    form: str | None = None
    found: int | None = None

    def may_differ(self, types: list[str], whole: bool) -> bool:
        """Whether the values could have other texts in columns of these types, ``whole`` where all ids are."""
        if self.types is None:
            return False
        was, now = plain_kinds(self.types), plain_kinds(types)
        if was == now:
            cut = any(a != b and a.endswith(FRACTIONS) for a, b in zip(self.types, types, strict=True))
            return cut or (self.form == "text" and whole and not self.whole_rows)
        return not (self.form == "integer" and whole and all(map(is_number, now)))


def plain_kinds(types: Iterable[str]) -> list[str]:
    """What columns hold, without whether some numbers in them are not whole."""
    return [kind.removesuffix(FRACTIONS) for kind in types]


def keyed_digest(key: bytes, values: Iterable[str]) -> str:
    """Digest a set of ids with HMAC-SHA256 (RFC 2104) so that only the holder of the key can test a guess.

    The order and repetitions of the canonical strings do not matter. Returns 64 hexadecimal characters.
    """
    message = "\n".join(sorted(set(values))).encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def digest_each(key: bytes, values: Iterable[str]) -> list[str]:
    """The keyed digest of each value by itself, as :func:`keyed_digest` makes it, in their order."""
    digest = keyed_hash(key)
    return [digest(value.encode()).hex() for value in values]


def keyed_hash(key: bytes) -> Callable[[bytes], bytes]:
    """HMAC-SHA256 under one key; its two states are made once and copied for each message (RFC 2104, section 4)."""
    block = hashlib.sha256().block_size
    padded = (hashlib.sha256(key).digest() if len(key) > block else key).ljust(block, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in padded)) for pad in (0x36, 0x5C))

    def digest(message: bytes) -> bytes:
        first, second = inner.copy(), outer.copy()
        first.update(message)
        second.update(first.digest())
        return second.digest()

    return digest


def key_check(key: bytes) -> str:
    """A digest that only identifies the key."""
    return keyed_digest(key, ["key check"])


def load_digest_key(path: Path) -> bytes:
    """Read the owner's key from a file of hexadecimal characters, or make the file (32 random bytes, mode 0600).

    Raises InputError when the file holds fewer than 16 bytes, cannot be read or made, or others can read it.
    """
    try:
        require_file(path)
        if not path.exists():
            _make_key(path)
        # Windows keeps no such rights, and shows all files as readable by all.
        shared = sys.platform != "win32" and path.is_file() and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
        if shared:
            # Whoever has it can try all customer numbers on a published ledger.
            raise InputError(f"Others can read the digest key {path}; run `chmod 600 {path}` first.")
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise InputError(f"Cannot read or make the digest key {path}: {error.strerror}.") from None
    except InputError:
        raise
    except ValueError:
        key = b""
    if len(key) < 16:
        raise InputError(f"{path} is not a digest key; it must hold 32 or more hexadecimal characters.")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Several processes may get here at once: one of them makes the key, and all read that one.
    with WeakFileLock(path.with_name(f".{path.name}.lock")):
        if path.exists():
            return
        with written_privately(path) as file:
            file.write(secrets.token_hex(32))
    logger.warning(
        "Your secret key was made: %s. Back it up. Without it nobody can go on with the ledgers that it signs.", path
    )


def key_path(path: str | None) -> Path:
    """Where the owner's key is: the file that the settings name, or one in the user's folder of settings.

    One that lies in HF_HOME, where it was made at first, is still used.
    """
    if path is not None:
        return Path(path)
    usual = _settings_folder() / "hf_unlearn" / "digest.key"
    old = Path(os.path.expanduser(constants.HF_HOME)) / "hf_unlearn_digest.key"
    return old if old.exists() and not usual.exists() else usual


def _settings_folder() -> Path:
    """Where programs keep the settings of a user, outside of caches, which people clear."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    # https://specifications.freedesktop.org/basedir-spec/latest/: what is not absolute is ignored.
    named = os.environ.get("XDG_CONFIG_HOME", "")
    return Path(named) if os.path.isabs(named) else Path.home() / ".config"


def known_key(path: str | None, checks: Iterable[str]) -> bytes | None:
    """The owner's key, None where its file is not there, or is not that of all these :func:`key_check`."""
    place = key_path(path)
    key = load_digest_key(place) if place.exists() else None
    return key if key is not None and all(check == key_check(key) for check in set(checks)) else None
