"""An authority for time stamps on localhost: `openssl ts` behind HTTP."""

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CONFIG = """
[tsa]
default_tsa = signer
[signer]
dir = {folder}
serial = $dir/serial
crypto_device = builtin
signer_cert = $dir/tsa.pem
signer_key = $dir/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha512
accuracy = secs:1
ess_cert_id_alg = sha256
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
[leaf]
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
"""


def openssl(folder: Path, *words: str) -> None:
    done = subprocess.run(["openssl", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def make_authority(folder: Path, name: str) -> Path:
    """Make the keys and certificates of an authority; its root certificate."""
    folder.mkdir()
    (folder / "openssl.cnf").write_text(CONFIG.format(folder=folder, name=name))
    (folder / "serial").write_text("01\n")
    key = ("-newkey", "rsa:2048", "-nodes", "-config", "openssl.cnf")
    openssl(folder, "req", "-x509", *key, "-extensions", "ca", "-days", "30", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(folder, "req", "-new", *key, "-subj", f"/CN={name} signer", "-keyout", "tsa.key", "-out", "tsa.csr")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "openssl.cnf", "-extensions", "leaf")
    openssl(folder, "x509", "-req", "-in", "tsa.csr", *signed, "-days", "30", "-out", "tsa.pem")
    return folder / "ca.pem"


def reply(folder: Path, request: bytes) -> bytes:
    """The answer of an authority to a request, both as DER."""
    (folder / "request.tsq").write_bytes(request)
    reply = ("ts", "-reply", "-config", "openssl.cnf", "-queryfile", "request.tsq", "-out", "reply.tsr")
    openssl(folder, *reply)
    return (folder / "reply.tsr").read_bytes()


@dataclass
class Authority:
    """Attributes: its address, its root certificate, what it was asked, and what it answers in place of a stamp."""

    url: str
    certificate: Path
    asked: list[bytes]
    status: int = 200
    instead: bytes | None = None


@contextmanager
def authority(folder: Path, name: str = "authority") -> Iterator[Authority]:
    """Start an authority that stamps what it is sent."""
    certificate = make_authority(folder, name)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = self.rfile.read(int(self.headers["Content-Length"]))
            found.asked.append(request)
            content = reply(folder, request) if found.instead is None else found.instead
            self.send_response(found.status)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Authority(f"http://127.0.0.1:{server.server_port}/", certificate, [])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
