"""What others make of what is published: the default Xet transfer, the Hub's JavaScript client, a proxy, git."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hf_unlearn import InputError, publish

from ..conftest import TOKEN
from ..support.hub_server import HubServer

# Xet


@pytest.fixture
def xet_hub(tmp_path: Path) -> Iterator[HubServer]:
    """A Hub of its own: nothing else may use the folder that stands for Xet's storage."""
    with HubServer(tmp_path / "xet_hub") as server:
        server.xet_dir = tmp_path / "xet"
        server.add_token(TOKEN, "owner")
        yield server


XET_SCRIPT = """
import sys
import torch
from hf_unlearn.cli import main
from transformers import AutoModelForCausalLM
folder = sys.argv[1]
assert main(["push", folder, "--hub_model_id", "owner/by-xet"]) == 0
assert main(["push", folder, "--hub_model_id", "owner/by-xet"]) == 0, "it is recognised"
ours, theirs = (AutoModelForCausalLM.from_pretrained(name) for name in (folder, "owner/by-xet"))
assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
"""


def test_by_xet_as_the_clients_do_when_left_alone(xet_hub: HubServer, finished: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": xet_hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    del environment["HF_HUB_DISABLE_XET"]
    command = [sys.executable, "-c", XET_SCRIPT, str(finished)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = [path.split("/")[-2] for _, path, _ in xet_hub.requests if "-token/" in path]
    assert {"xet-write-token", "xet-read-token"} <= set(asked)
    assert not [path for _, path, _ in xet_hub.requests if path.endswith("/objects/batch")]
    assert not xet_hub.store_requests
    git = ["git", "--git-dir", str(xet_hub.git_dir("owner/by-xet"))]
    log = subprocess.run([*git, "log", "--format=%s"], capture_output=True, text=True, check=True).stdout.splitlines()
    assert log == ["Unlearn 10 records with base: exact", "initial commit"]


@pytest.mark.parametrize(
    ("status", "cure"), [(401, "log in again with `hf auth login`"), (403, "use a token with the role write")]
)
def test_xet_that_is_refused(
    xet_hub: HubServer, finished: Path, status: int, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(constants, "ENDPOINT", xet_hub.url)
    xet_hub.fail("GET .*/xet-write-token/", status, times=-1)
    with pytest.raises(InputError, match=rf"\({status}\).*{cure}"):
        publish(finished, "owner/not-by-xet", token=TOKEN)
    assert not HfApi(token=TOKEN).repo_exists("owner/not-by-xet")


# Others


JAVASCRIPT = """
import { createHash } from "node:crypto";
import { downloadFile, listFiles, modelInfo } from "@huggingface/hub";
const [hubUrl, accessToken, name] = process.argv.slice(2);
const digests = {};
for await (const file of listFiles({ repo: name, recursive: true, hubUrl, accessToken })) {
  const blob = await downloadFile({ repo: name, path: file.path, hubUrl, accessToken });
  digests[file.path] = createHash("sha256").update(Buffer.from(await blob.arrayBuffer())).digest("hex");
}
const info = await modelInfo({ name, hubUrl, accessToken, additionalFields: ["tags", "library_name"] });
console.log(JSON.stringify({ digests, info }));
"""


@pytest.fixture(scope="module")
def npm_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which node finds the Hub's JavaScript client."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--prefix", folder, "@huggingface/hub@2.17.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"npm cannot install @huggingface/hub: {done.stderr.strip().splitlines()[-1]}")
    return folder


def test_the_javascript_client_reads_what_we_pushed(hub: HubServer, finished: Path, npm_client: Path) -> None:
    publish(finished, "owner/for-javascript", token=TOKEN, private=True)
    script = npm_client / "read.mjs"
    script.write_text(JAVASCRIPT)
    command = ["node", script, hub.url, TOKEN, "owner/for-javascript"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["digests"].pop(".gitattributes")
    assert set(read["digests"]) >= {"model.safetensors", "README.md", "unlearning_report.json"}
    for path, digest in read["digests"].items():
        assert digest == hashlib.sha256((finished / path).read_bytes()).hexdigest(), path
    assert "machine-unlearning" in read["info"]["tags"]
    assert read["info"]["library_name"] == "transformers"


def test_git_finds_nothing_to_complain_of(hub: HubServer, finished: Path) -> None:
    publish(finished, "owner/for-git", token=TOKEN)
    card = finished / "README.md"
    card.write_text(card.read_text() + "\nA word more.\n")
    publish(finished, "owner/for-git", token=TOKEN, push_to_existing=True)
    git = ["git", "--git-dir", str(hub.git_dir("owner/for-git"))]
    assert subprocess.run([*git, "fsck", "--strict", "--full"], capture_output=True).returncode == 0
    log = subprocess.run([*git, "log", "--stat=200", "--format=%s|%an"], capture_output=True, text=True, check=True)
    second, first, _ = log.stdout.split("Unlearn 10 records with base: exact|owner")[1:] + [""]
    assert "1 file changed, 2 insertions(+)" in second, "what has not changed is not sent again"
    assert "model.safetensors" in first
    shown = subprocess.run([*git, "show", "main:README.md"], capture_output=True, check=True).stdout
    assert shown == card.read_bytes()


@pytest.fixture
def olah(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a caching proxy in front of the Hub, installed apart from everything else."""
    folder = tmp_path_factory.mktemp("olah")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = subprocess.run(
        [folder / "venv" / "bin" / "pip", "install", "--quiet", "olah==0.5.4"], capture_output=True, text=True
    )
    if pip.returncode:
        pytest.skip(f"pip cannot install olah: {pip.stderr.strip().splitlines()[-1]}")
    netloc, port = hub.url.removeprefix("http://"), _free_port()
    (folder / "olah.toml").write_text(
        f"""[basic]
host = "127.0.0.1"
port = {port}
hf-scheme = "http"
hf-netloc = "{netloc}"
hf-lfs-netloc = "{hub.store_url.removeprefix("http://")}"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
repos-path = "{folder / "repos"}"
[accessibility]
offline = false
[[accessibility.proxy]]
repo = "*"
allow = true
[[accessibility.cache]]
repo = "*"
allow = true
"""
    )
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        [folder / "venv" / "bin" / "olah-cli", "-c", folder / "olah.toml"], stdout=log, stderr=log, cwd=folder
    )
    try:
        for _ in range(300):
            if "Uvicorn running" in (folder / "log").read_text(errors="replace"):
                break
            assert server.poll() is None, (folder / "log").read_text(errors="replace")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
        log.close()


@pytest.mark.slow
def test_a_proxy_in_front_serves_what_we_pushed(olah: str, finished: Path, tmp_path: Path) -> None:
    publish(finished, "owner/for-olah", token=TOKEN)
    script = (
        "import sys; from transformers import AutoModelForCausalLM, AutoTokenizer;"
        "AutoTokenizer.from_pretrained('owner/for-olah');"
        "AutoModelForCausalLM.from_pretrained('owner/for-olah').save_pretrained(sys.argv[1])"
    )
    environment = {**os.environ, "HF_ENDPOINT": olah, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", script, str(tmp_path / "read")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (finished, tmp_path / "read"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "read").config.model_type == "llama"


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
