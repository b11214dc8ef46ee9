"""A time stamp of the ledger's last line by an authority (RFC 3161): the ledger was at least so long at that time.

Whoever puts back ledger, report and weights, all of them, to an earlier state leaves nothing beside the model that
shows it. A stamp that somebody keeps does: its line is not in the chain any more. The authority gets the SHA-256 of
the line, which is the head of the chain, and nothing else. `openssl ts -verify -digest` reads the same file.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.utils import httpx

from ..errors import InputError, in_one_line
from ..files import require_file
from .ledger import LEDGER_FILE, Ledger, digest_of, line_of

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from rfc3161_client import TimeStampRequest, TimeStampResponse

STAMP_FILE = "unlearning_ledger.tsr"
LARGEST_STAMP = 1_000_000  # bytes; real ones have some thousands
PATIENCE = 30  # seconds that an authority may be silent
SHA256 = "2.16.840.1.101.3.4.2.1"


@dataclass(frozen=True)
class TimeStamp:
    """What a time stamp says.

    Attributes:
        time: of the authority, in UTC.
        line: number of the line that was the last one then, counted from 1.
    """

    time: datetime
    line: int


def read_certificates(path: Path) -> "list[Certificate]":
    """The certificates of an authority from a PEM file; raises InputError where there are none."""
    _require_client()
    from cryptography.x509 import load_pem_x509_certificates

    require_file(path)
    try:
        return load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        why = error.strerror or type(error).__name__
    except ValueError:
        why = "it holds no certificate as PEM"
    raise InputError(f"The authority's certificate {str(path)!r} cannot be read: {why}.")


def ask_for_stamp(ledger: Ledger, authority: str, certificates: "list[Certificate]") -> bytes:
    """Have an authority stamp the last line of a ledger.

    Args:
        ledger: with one line or more.
        authority: the address that takes requests by HTTP.
        certificates: of the authority.

    Returns:
        The answer as DER, which was checked.

    Raises:
        InputError: the authority cannot be reached or refuses, or the answer is not about this line or not from it.
    """
    _require_client()
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    last = line_of(ledger.events[-1]).encode()
    request = TimestampRequestBuilder().data(last).hash_algorithm(HashAlgorithm.SHA256).build()
    content = _answer(authority, request.as_bytes())
    response = _decoded(content, f"The answer of {authority!r}")
    if response.status > 1:
        said = in_one_line(" ".join(response.status_string))
        raise InputError(f"{authority!r} gave no time stamp (status {response.status}){said and f': {said}'}.")
    _check_signature(response, certificates, request, f"The answer of {authority!r}")
    if stamped_line(response, ledger) != len(ledger.events):
        raise InputError(f"The answer of {authority!r} is about something else; ask another authority.")
    return content


def check_stamp(content: bytes, ledger: Ledger, certificates: "list[Certificate] | None") -> TimeStamp:
    """Compare a time stamp with a ledger.

    Args:
        content: the stamp as DER.
        ledger: that it should be of.
        certificates: of the authority; None to leave its signature unchecked.

    Raises:
        InputError: it is no stamp, is not from that authority, or is of a line that the ledger does not have.
    """
    response = _decoded(content, "The time stamp")
    if response.status > 1:
        raise InputError("The time stamp says that the authority gave none; ask again with `hf-unlearn ledger stamp`.")
    if certificates is not None:
        _check_signature(response, certificates, None, "The time stamp")
    time, line = response.tst_info.gen_time, stamped_line(response, ledger)
    if line is None:
        raise InputError(
            f"The time stamp of {time:%Y-%m-%d %H:%M:%S} UTC is of a line that {LEDGER_FILE} does not have. The "
            "ledger was put back to an earlier state, or written anew, or the stamp is of another one; restore the "
            "model from its history."
        )
    return TimeStamp(time, line)


def stamped_line(response: "TimeStampResponse", ledger: Ledger) -> int | None:
    """The number of the line that a stamp is of, counted from 1; None where the ledger has no such line."""
    imprint = response.tst_info.message_imprint
    if imprint.hash_algorithm.dotted_string != SHA256:
        return None
    wanted = imprint.message.hex()
    found = (number for number, event in enumerate(ledger.events, 1) if digest_of(line_of(event)) == wanted)
    return next(found, None)


def _require_client() -> None:
    try:
        import rfc3161_client  # noqa: F401
    except ImportError:
        raise InputError("Time stamps need rfc3161-client: pip install 'hf_unlearn[timestamp]'.") from None


def _decoded(content: bytes, what: str) -> "TimeStampResponse":
    """A time stamp with all that is read of it; raises InputError where it is none."""
    _require_client()
    from rfc3161_client import decode_timestamp_response

    try:
        response = decode_timestamp_response(content)
        if response.status <= 1:
            _ = response.tst_info.message_imprint.message
    except ValueError:
        raise InputError(f"{what} is no time stamp of RFC 3161.") from None
    return response


def _check_signature(
    response: "TimeStampResponse", certificates: "list[Certificate]", request: "TimeStampRequest | None", what: str
) -> None:
    """Raise InputError unless a stamp was signed by the authority, and for this request if one is given."""
    from rfc3161_client import VerificationError, VerifierBuilder

    builder = VerifierBuilder() if request is None else VerifierBuilder.from_request(request)
    for certificate in dict.fromkeys(certificates):
        builder = builder.add_root_certificate(certificate)
    try:
        builder.build().verify(response, response.tst_info.message_imprint.message)
    except (VerificationError, ValueError) as error:
        said = in_one_line(error).rstrip(".")
        raise InputError(f"{what} is not signed by an authority of these certificates ({said}).") from None


def _answer(authority: str, request: bytes) -> bytes:
    """What an authority answers to a request; raises InputError where it cannot be asked."""
    headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
    cure = "name another --authority, or try later"
    content = b""
    try:
        with httpx.stream("POST", authority, content=request, headers=headers, timeout=PATIENCE) as response:
            if response.status_code != 200:
                raise InputError(f"{authority!r} answered with HTTP status {response.status_code}; {cure}.")
            for part in response.iter_bytes():
                content += part
                if len(content) > LARGEST_STAMP:
                    raise InputError(f"{authority!r} answers more than a time stamp; name another --authority.")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(f"{authority!r} cannot be asked ({type(error).__name__}); {cure}.") from None
    return content
