"""The keyed digest: the only form in which ids leave this package."""

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path

from .errors import InputError


def keyed_digest(key: bytes, values: Iterable[str]) -> str:
    """Digest a set of ids with HMAC-SHA256 (RFC 2104) so that only the holder of the key can test a guess.

    Args:
        key: the owner's secret.
        values: canonical strings; their order and repetitions do not matter.

    Returns:
        64 hexadecimal characters.
    """
    message = "\n".join(sorted(set(values))).encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def load_digest_key(path: Path) -> bytes:
    """Read the owner's digest key, creating it (32 random bytes, mode 0600) when the file does not exist.

    Args:
        path: a text file with the key as hexadecimal characters.

    Returns:
        The key.

    Raises:
        InputError: the file does not hold a key of at least 16 bytes, or cannot be read or made.
    """
    try:
        if not path.exists():
            _make_key(path)
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise InputError(f"Cannot read or make the digest key {path}: {error.strerror}.") from None
    except ValueError:
        key = b""
    if len(key) < 16:
        raise InputError(f"{path} is not a digest key: it must hold at least 32 hexadecimal characters.")
    return key


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may get here at once: one of them makes the key, whole, and all read that one.
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    with contextlib.suppress(FileExistsError):
        os.link(temporary, path)
    os.unlink(temporary)
