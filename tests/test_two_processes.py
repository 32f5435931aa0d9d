"""Two processes at once: one file, one folder, one GPU; and what a killed one leaves behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_model import environment

from tinycats.compute import devices
from tinycats.files.atomic import new_folder, problem, whole, write_text
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
from tinycats.files.atomic import new_folder
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


def test_two_processes_that_replace_one_folder(tmp_path: Path) -> None:
    """One of them wins, wherever the other is between taking the old away and putting its own."""
    code = """
import sys
from tinycats.files.atomic import new_folder
for _ in range(60):
    with new_folder(sys.argv[1]) as new:
        (new / "weights").write_text(sys.argv[2])
"""
    writers = [start(code, tmp_path / "model", letter) for letter in "abc"]
    assert [writer.communicate()[1] for writer in writers] == [""] * 3
    assert (tmp_path / "model/weights").read_text() in list("abc")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


# ---- on the disk


def test_what_replaces_a_file_is_on_the_disk_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a loss of power would find it: bytes, then the name, then the old is gone."""
    done: list[str] = []

    def noted(name: str, real: Callable[..., object], what: Callable[[Any], str]) -> None:
        def replacement(*words: Any, **more: Any) -> object:
            done.append(f"{name} {what(words[0])}")
            return real(*words, **more)

        monkeypatch.setattr(name, replacement)

    def relative(path: str | Path) -> str:
        name = os.path.relpath(path, tmp_path)
        return re.sub(r"partial-\w+|[0-9a-f]{8,}", "*", name)

    noted("os.fsync", os.fsync, lambda fd: relative(os.readlink(f"/proc/self/fd/{fd}")))
    noted("os.replace", os.replace, relative)
    noted("shutil.rmtree", shutil.rmtree, relative)
    write_text(tmp_path / "f", "text")
    assert done == ["os.fsync f.*.tmp", "os.replace f.*.tmp", "os.fsync ."]
    for _ in range(2):
        done.clear()
        with new_folder(tmp_path / "model") as new:
            (new / "sub").mkdir()
            (new / "sub/weights").write_text("x")
    assert sorted(done[:3]) == [
        f"os.fsync .model.*/new{end}" for end in ("", "/sub", "/sub/weights")
    ]
    assert done[3:] == [
        *("os.replace model", "os.replace .model.*/new", "os.fsync .", "shutil.rmtree .model.*"),
    ]


# ---- GPUs


def test_a_claim_follows_no_link_and_empties_no_file(tmp_path: Path) -> None:
    folder, other = tmp_path / "claims", tmp_path / "thesis.csv"
    folder.mkdir()
    other.write_text("years of work\n")
    (folder / "gpu-a.lock").symlink_to(other)
    with pytest.raises(UserError, match=r"gpu-a\.lock: cannot be locked"):
        devices.claim_gpu("a", folder)
    (folder / "gpu-a.lock").unlink()
    (folder / "gpu-a.lock").hardlink_to(other)
    assert devices.claim_gpu("a", folder) == 0
    assert other.read_text() == "years of work\n"


def test_a_folder_of_claims_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "claims").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="claims: made by another user"):
        devices.claim_gpu("a", tmp_path / "claims")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_claim_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpu-a.lock").touch()
    stat = os.stat_result((0o100600, 1, 1, 1, os.getuid() + 1, 0, 0, 0, 0, 0))
    monkeypatch.setattr("os.fstat", lambda _: stat)
    monkeypatch.setattr("builtins.open", lambda fd, _: os.fdopen(fd, "r+"))
    with pytest.raises(UserError, match=r"gpu-a\.lock: made by another user"):
        devices.claim_gpu("a", tmp_path)


def test_names_of_gpus_with_slashes(tmp_path: Path) -> None:
    """Of MIG, as older drivers have them."""
    assert devices.claim_gpu(["MIG-GPU-5c89852c-d268/7/0"], tmp_path) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["gpu-MIG-GPU-5c89852c-d268_7_0.lock"]


@pytest.mark.parametrize(
    ("visible", "uuids", "names"),
    [
        (None, ["1f-2", "2f-2"], ["GPU-1f-2", "GPU-2f-2"]),
        ("1,0", ["2f-2", "1f-2"], ["GPU-2f-2", "GPU-1f-2"]),
        ("0", ["2f-2"], ["GPU-2f-2"]),  # the second GPU, in a cgroup
        ("MIG-7a-4", ["1f-2"], ["MIG-7a-4"]),  # CUDA names the whole GPU
    ],
)
def test_a_gpu_has_one_name_in_every_job(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, uuids: list[str], names: list[str]
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: len(uuids))
    monkeypatch.setattr(
        "torch.cuda.get_device_properties", lambda index: SimpleNamespace(uuid=uuids[index])
    )
    assert devices.gpu_names() == names
