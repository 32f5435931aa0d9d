"""Two processes at once: one file, one folder, one GPU; and what a killed one leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_model import environment

from tinycats.compute import devices
from tinycats.files.atomic import problem, whole, write_text
from tinycats.models.folders import new_folder
from tinycats.program import UserError

WRITES_OFTEN = """
import sys
from tinycats.files.atomic import seal, write_text
path, letter = sys.argv[1:]
for _ in range(40):
    write_text(path, letter * 300_000)
    seal(path)
"""
HOLDS = {
    "file": """
import sys, time
from pathlib import Path
from tinycats.files.atomic import whole
with whole(Path(sys.argv[1])) as temporary:
    temporary.write_text("half of it")
    print(flush=True)
    sys.stdin.readline()
    temporary.write_text("theirs")
""",
    "folder": """
import sys
from tinycats.models.folders import new_folder
with new_folder(sys.argv[1]) as new:
    print(flush=True)
    sys.stdin.readline()
    (new / "weights").write_text("theirs")
""",
}


def start(code: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def at_work(what: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is writing ``path`` and goes on when its input ends."""
    process = start(HOLDS[what], path)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    """Neither fails, one of them wins, and the checksum is that of the file."""
    path = tmp_path / "f"
    writers = [start(WRITES_OFTEN, path, letter) for letter in "ab"]
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    text = path.read_text()
    assert len(text) == 300_000
    assert len(set(text)) == 1
    assert problem(path) is None
    assert {p.name for p in tmp_path.rglob("*")} == {"f", ".sha256", "f.sha256"}


def test_a_file_that_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with at_work("file", path) as other:
        write_text(path, "ours")
        assert path.read_text() == "ours"
        assert len(list(tmp_path.iterdir())) == 2
        assert other.communicate("\n")[1] == ""
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_another_process_fills_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with at_work("folder", folder) as other:
        with new_folder(folder) as new:
            (new / "weights").write_text("ours")
        assert (folder / "weights").read_text() == "ours"
        assert other.communicate("\n")[1] == ""
    assert (folder / "weights").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("what", list(HOLDS))
def test_what_a_killed_process_left_is_removed(tmp_path: Path, what: str) -> None:
    path = tmp_path / "result"
    with at_work(what, path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert len(list(tmp_path.iterdir())) == 1
    if what == "file":
        write_text(path, "ours")
    else:
        with new_folder(path):
            pass
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("before")

    def fail() -> None:
        with whole(tmp_path / "f") as temporary:
            temporary.write_text("half of it")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]


# ---- GPUs


def test_a_claim_follows_no_link_and_empties_no_file(tmp_path: Path) -> None:
    folder, other = tmp_path / "claims", tmp_path / "thesis.csv"
    folder.mkdir()
    other.write_text("years of work\n")
    (folder / "gpu-0.lock").symlink_to(other)
    with pytest.raises(UserError, match=r"gpu-0\.lock: cannot be locked"):
        devices.claim_gpu(1, folder)
    (folder / "gpu-0.lock").unlink()
    (folder / "gpu-0.lock").hardlink_to(other)
    assert devices.claim_gpu(1, folder) == 0
    assert other.read_text() == "years of work\n"


def test_a_folder_of_claims_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "claims").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="claims: made by another user"):
        devices.claim_gpu(1, tmp_path / "claims")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_names_of_gpus_with_slashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of MIG, as older drivers have them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-GPU-5c89852c-d268/7/0")
    assert devices.claim_gpu(1, tmp_path) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["gpu-MIG-GPU-5c89852c-d268_7_0.lock"]
