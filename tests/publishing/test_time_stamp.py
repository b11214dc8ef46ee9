"""Time stamps of the ledger, by a local authority made with openssl."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hf_unlearn import InputError
from hf_unlearn.cli import main
from hf_unlearn.publishing.ledger import LEDGER_FILE, Erased, Ledger, digest_of, load_ledger
from hf_unlearn.publishing.time_stamp import STAMP_FILE, ask_for_stamp, check_stamp, read_certificates

from ..support.stamping import Authority, authority, make_authority, openssl, reply
from .test_ledger import a_run

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl as an authority of time stamps")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    with authority(tmp_path_factory.mktemp("authority") / "one") as found:
        yield found


@pytest.fixture
def asked(served: Authority) -> Iterator[Authority]:
    """The authority, which has not been asked yet and stamps again in the end."""
    served.asked.clear()
    yield served
    served.status, served.instead = 200, None


@pytest.fixture(scope="module")
def other_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("other") / "two", "another authority")


def ledger(lines: int) -> Ledger:
    found = Ledger()
    for number in range(1, lines + 1):
        found = found.with_event(a_run(number))
    return found


def test_a_stamp_shows_that_the_ledger_was_put_back(asked: Authority) -> None:
    certificates = read_certificates(asked.certificate)
    content = ask_for_stamp(ledger(3), asked.url, certificates)
    for lines in (3, 4):
        assert check_stamp(content, ledger(lines), certificates).line == 3
    # To an earlier state, or another line written in its place.
    anew = ledger(2).with_event(replace(a_run(3), rows=1)).with_event(a_run(4))
    for other in (ledger(2), anew):
        for known in (certificates, None):
            with pytest.raises(InputError, match=r"UTC is of a line that .* does not have. The ledger was put back"):
                check_stamp(content, other, known)


def test_the_authority_learns_a_digest_alone_and_openssl_reads_its_stamp(asked: Authority, tmp_path: Path) -> None:
    content = ask_for_stamp(ledger(3), asked.url, read_certificates(asked.certificate))
    head = ledger(3).last_line
    assert head is not None
    [request] = asked.asked
    # RFC 3161, 2.4.1: version, imprint, nonce and the wish for certificates are all that a request has.
    assert bytes.fromhex(head) in request
    assert len(request) < 100
    (tmp_path / "stamp.tsr").write_bytes(content)
    check = ("ts", "-verify", "-in", "stamp.tsr", "-CAfile", str(asked.certificate), "-digest")
    openssl(tmp_path, *check, head)
    done = subprocess.run(["openssl", *check, digest_of("another")], cwd=tmp_path, capture_output=True)
    assert done.returncode != 0


def test_a_stamp_of_another_authority_or_that_was_changed(asked: Authority, other_certificate: Path) -> None:
    content = ask_for_stamp(ledger(1), asked.url, read_certificates(asked.certificate))
    with pytest.raises(InputError, match="is not signed by an authority of these certificates"):
        check_stamp(content, ledger(1), read_certificates(other_certificate))
    # Both together are the authorities that are trusted.
    both = read_certificates(asked.certificate) + read_certificates(other_certificate)
    assert check_stamp(content, ledger(1), both).line == 1
    # The digest in it is that of the earlier state; the signature is of the other one.
    earlier, later = (bytes.fromhex(ledger(n).last_line or "") for n in (1, 2))
    content = ask_for_stamp(ledger(2), asked.url, read_certificates(asked.certificate))
    with pytest.raises(InputError, match="is not signed by"):
        check_stamp(content.replace(later, earlier), ledger(1), both)
    for damaged in (b"", b"x", content[:-1], content[: len(content) // 2], b"\x30\x05\x30\x03\x02\x01\x00"):
        with pytest.raises(InputError, match="The time stamp is no time stamp of RFC 3161"):
            check_stamp(damaged, ledger(2), both)


def test_an_authority_that_does_not_stamp(asked: Authority, other_certificate: Path) -> None:
    certificates = read_certificates(asked.certificate)
    old = ask_for_stamp(ledger(1), asked.url, certificates)
    refusal = b"\x30\x05\x30\x03\x02\x01\x02"
    wrong = {
        b"<html>": "is no time stamp of RFC 3161",
        b"x" * 2_000_000: "answers more than a time stamp",
        refusal: r"gave no time stamp \(status 2\)",
        # Of the same line, but to an earlier request.
        old: "is not signed by .*[Nn]once",
    }
    for asked.instead, said in wrong.items():
        with pytest.raises(InputError, match=said):
            ask_for_stamp(ledger(1), asked.url, certificates)
    with pytest.raises(InputError, match="the authority gave none"):
        check_stamp(refusal, ledger(1), None)
    asked.instead, asked.status = b"", 503
    with pytest.raises(InputError, match="answered with HTTP status 503; name another --authority"):
        ask_for_stamp(ledger(1), asked.url, certificates)
    for place in ("http://127.0.0.1:1/", "nowhere", "ftp://127.0.0.1/", "http://["):
        with pytest.raises(InputError, match="cannot be asked"):
            ask_for_stamp(ledger(1), place, certificates)
    asked.instead, asked.status = None, 200
    with pytest.raises(InputError, match="is not signed by an authority of these certificates"):
        ask_for_stamp(ledger(1), asked.url, read_certificates(other_certificate))


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no certificate")
    for name, why in {"gone.pem": "No such file", "key.pem": "it holds no certificate as PEM"}.items():
        with pytest.raises(InputError, match=why):
            read_certificates(tmp_path / name)


def test_the_command_stamps_and_verifies(
    finished: Path, asked: Authority, other_certificate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ledger_command(*words: str) -> tuple[int, str]:
        code = main(["ledger", *words])
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    folder = str(finished)
    known = ["--authority_certificate", str(asked.certificate)]
    code, said = ledger_command("verify", folder)
    assert code == 0
    assert "No time stamp is here, and only one that was kept shows whether all was put back" in said
    assert ledger_command("verify", folder, *known)[0] == 2
    before = shutil.copytree(finished, tmp_path / "before")

    wrong = ["--authority", asked.url, "--authority_certificate", str(other_certificate)]
    assert ledger_command("stamp", folder, *wrong)[0] == 2
    assert not (finished / STAMP_FILE).exists(), "nothing is left of a stamp that cannot be checked"
    code, said = ledger_command("stamp", folder, "--authority", asked.url, *known)
    assert code == 0, said
    assert "stamped line 1, the last one, at 20" in said
    kept = shutil.copy(finished / STAMP_FILE, tmp_path / "kept.tsr")
    code, said = ledger_command("verify", folder, *known)
    assert code == 0, said
    assert "An authority stamped line 1 of 1 at 20" in said
    code, said = ledger_command("verify", folder)
    assert code == 0
    assert "Somebody, whose signature was not checked, stamped line 1 of 1" in said
    code, said = ledger_command("verify", folder, "--authority_certificate", str(other_certificate))
    assert code == 2
    assert "is not signed by an authority of these certificates" in said

    # A later line, and its stamp. All is put back to the state before it, stamp and all; the kept one shows it.
    found = load_ledger(finished)
    assert found is not None
    erased = Erased("2026-11-23T11:00:00+00:00", "owner/x", digest_of("erasure"), {"objects": 3})
    found.with_event(erased).save(finished)
    code, said = ledger_command("verify", folder, *known)
    assert code == 0
    assert "stamped line 1 of 2 at 20" in said
    assert "The 1 later line has no stamp." in said
    assert ledger_command("stamp", folder, "--authority", asked.url, *known)[0] == 0
    newest = shutil.copy(finished / STAMP_FILE, tmp_path / "newest.tsr")
    shutil.copy(kept, before / STAMP_FILE)
    assert ledger_command("verify", str(before), *known)[0] == 0
    code, said = ledger_command("verify", str(before), *known, "--time_stamp", str(newest))
    assert code == 2
    assert f"is of a line that {LEDGER_FILE} does not have. The ledger was put back to an earlier state" in said

    # The ledger alone: a new stamp does not hide it.
    found.save(finished)
    for words in (["verify", folder], ["stamp", folder, "--authority", asked.url, *known]):
        code, said = ledger_command(*words)
        assert code == 2
        assert "does not have. The ledger was put back" in said
    assert (finished / STAMP_FILE).read_bytes() == Path(newest).read_bytes()


def test_a_stamp_is_published_with_its_ledger(
    finished: Path, asked: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ["--authority_certificate", str(asked.certificate)]
    assert main(["ledger", "stamp", str(finished), "--authority", asked.url, *known]) == 0
    assert main(["push", str(finished), "--hub_model_id", "owner/stamped", "--push_anyway"]) == 0
    capsys.readouterr()
    assert main(["ledger", "verify", "owner/stamped", *known]) == 0
    assert "An authority stamped line 1 of 1" in " ".join(capsys.readouterr().out.split())


def test_only_sha256_of_a_line_counts(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    folder = tmp_path_factory.mktemp("authority") / "three"
    make_authority(folder, "three")
    (tmp_path / "line").write_text(ledger(1).text.rstrip("\n"))
    for name, fits in {"sha256": True, "sha512": False}.items():
        openssl(tmp_path, "ts", "-query", "-data", "line", f"-{name}", "-cert", "-out", "query.tsq")
        content = reply(folder, (tmp_path / "query.tsq").read_bytes())
        if fits:
            assert check_stamp(content, ledger(1), read_certificates(folder / "ca.pem")).line == 1
        else:
            with pytest.raises(InputError, match="does not have"):
                check_stamp(content, ledger(1), None)
