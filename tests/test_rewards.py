"""Rewards other than similarity: what they give, and that a bad one stops in one line."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import ROOT, environment, program, write_model
from warm_start import Started

from tinycats.policies.record import check_policy
from tinycats.program import UserError
from tinycats.reward.memo import load_memo, save_memo
from tinycats.reward.model import CHECKED_AGAIN, RewardError, RewardModel
from tinycats.reward.python import PythonReward
from tinycats.reward.settings import RewardFiles, RewardSettings

TEXTS = [f"a story of {number} words" for number in range(30)]


def write(folder: Path, text: str, name: str = "reward.py") -> str:
    """A file with this text; as a config names its function ``f``."""
    (folder / name).write_text(text, encoding="utf-8")
    return f"{folder / name}:f"


# ---------------------------------------------------------------------------- what it gives


def test_the_shipped_examples() -> None:
    animals = PythonReward("config/rewards/animals.py:animals_named")
    assert animals.name == "animals named"
    texts = ["", "A CAT and two dogs", "concatenated", "mice; a mouse", "fish."]
    assert animals(texts).tolist() == [0, 2, 0, 2, 1]
    letters = PythonReward("config/rewards/length.py:letters")
    assert letters(["", "a b", "Élodie!"]).tolist() == pytest.approx([0, 0.02, 0.06])
    for reward in (animals, letters):
        assert len(Path(ROOT / f"config/rewards/{reward.path.name}").read_text().splitlines()) <= 12


@pytest.mark.parametrize(
    "returned",
    [
        "[len(t) for t in texts]",
        "(float(len(t)) for t in texts)",
        "np.array([len(t) for t in texts], dtype='int32')",
        "torch.tensor([len(t) for t in texts], dtype=torch.bfloat16)",
        "tuple(np.float16(len(t)) for t in texts)",
    ],
)
def test_numbers_of_many_kinds(tmp_path: Path, returned: str) -> None:
    code = f"import numpy as np, torch\ndef f(texts):\n    return {returned}\n"
    found = RewardModel(PythonReward(write(tmp_path, code)))([*TEXTS, TEXTS[3]])
    assert found.dtype == torch.float32
    assert found.tolist() == [len(text) for text in [*TEXTS, TEXTS[3]]]


def test_a_function_sees_each_text_once_but_for_the_check(tmp_path: Path) -> None:
    code = "asked = []\ndef f(texts):\n    asked.append(list(texts))\n    return [len(t) for t in texts]\n"
    reward = PythonReward(write(tmp_path, code))
    asked: list[list[str]] = sys.modules["reward_of_a_file"].asked
    model = RewardModel(reward)
    model(TEXTS[:20] * 3)
    assert asked == [TEXTS[:20], TEXTS[19 : 19 - CHECKED_AGAIN : -1]]
    model(TEXTS[10:])
    assert asked[2:] == [TEXTS[20:] + TEXTS[19 : 19 - CHECKED_AGAIN : -1]]
    model(TEXTS)
    assert len(asked) == 3


def test_what_it_prints_is_one_line(tmp_path: Path, caplog: Any, capfd: Any) -> None:
    code = (
        "import sys\nprint('at', 'import')\n"
        "def f(texts):\n    print('\\n\\nlooking\\nat', texts, file=sys.stderr)\n    print('x')\n"
        "    return [0] * len(texts)\n"
    )
    caplog.set_level("INFO", "tinycats")
    reward = PythonReward(write(tmp_path, code))
    reward(TEXTS)
    said = [record.getMessage() for record in caplog.records]
    path = tmp_path / "reward.py"
    assert said == [f"{path} says: at import", f"{path} says: looking … and 2 more lines"]
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------- what is refused

BAD = {
    "NaN": ("return [float('nan')] * len(texts)", "returned nan for"),
    "infinite": ("return [1.0] * (len(texts) - 1) + [float('inf')]", "returned inf for"),
    "too large": ("return [1e39] * len(texts)", "returned 1e+39 for"),
    "too short": ("return [1.0] * (len(texts) - 1)", "returned 29 values; expected a list of 30"),
    "too long": ("return [1.0] * (len(texts) + 1)", "returned 31 values; expected a list of 30"),
    "one number": ("return 1.0", "returned 1.0, of type float; expected a list of 30"),
    "nothing": ("len(texts)", "returned null, of type NoneType; expected a list of 30"),
    "a mapping": ("return {t: 1.0 for t in texts}", "of type dict; expected a list of 30"),
    "texts": ("return ['1'] * len(texts)", 'returned "1" among its values; expected a list of'),
    "lists": ("return [[1, 2]] * len(texts)", "returned [1, 2] among its values"),
    "none": ("return [None] * len(texts)", "returned null among its values"),
    "raises": ("return [1 / (len(t) - 19) for t in texts]", "line 2: ZeroDivisionError: "),
    "in a library": ("import json; json.loads('{')", "line 2: JSONDecodeError: "),
    "lazily": ("return (1 / 0 for t in texts)", "line 2: ZeroDivisionError: division by zero"),
    "exits": ("raise SystemExit('bye\\nbye')", "line 2: SystemExit: bye bye"),
    "no text": ("raise KeyError", "line 2: KeyError"),
    "endless": ("return f(texts)", "line 2: RecursionError: "),
    "chance": (
        "import random; return [random.random() for t in texts]",
        "and then 0.",
    ),
    "company": ("return [i for i, t in enumerate(texts)]", "29.0 and then 0.0 for"),
    "a mean": (
        "m = sum(map(len, texts)) / len(texts); return [len(t) - m for t in texts]",
        " and then ",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_reward_is_one_line(tmp_path: Path, case: str) -> None:
    body, says = BAD[case]
    model = RewardModel(PythonReward(write(tmp_path, f"def f(texts):\n    {body}\n")))
    with pytest.raises(RewardError) as error:
        model(TEXTS)
    assert says in str(error.value)
    assert str(error.value).startswith("reward")
    assert "\n" not in str(error.value)
    assert model.memo == {}


def test_a_reward_that_changes_later_is_noticed(tmp_path: Path) -> None:
    code = (
        "calls = []\ndef f(texts):\n    calls.append(1)\n    return [len(calls) > 2] * len(texts)\n"
    )
    model = RewardModel(PythonReward(write(tmp_path, code)))
    model(TEXTS[:10])
    model(TEXTS[:10])
    with pytest.raises(RewardError, match=r"0.0 and then 1.0 for \"a story of 9 words\""):
        model(TEXTS[10:])


def test_a_reward_that_differs_between_jobs_is_noticed(tmp_path: Path) -> None:
    """Rewards by Python's hash of a text: the same within a process, not in the next."""
    python = write(tmp_path, "def f(texts):\n    return [hash(t) % 1000 for t in texts]\n")
    code = (
        "import sys\nfrom pathlib import Path\nfrom tinycats.reward.memo import save_memo\n"
        "from tinycats.reward.model import RewardModel\n"
        "from tinycats.reward.python import PythonReward\n"
        "model = RewardModel(PythonReward(sys.argv[1]))\nmodel(sys.argv[3:])\n"
        "save_memo(model, Path(sys.argv[2]), 0)\n"
    )
    words = [sys.executable, "-c", code, python, str(tmp_path / "rewards"), *TEXTS[:5]]
    subprocess.run(words, env=environment(PYTHONHASHSEED="1"), check=True)
    model = RewardModel(PythonReward(python))
    assert load_memo(model, tmp_path / "rewards") == 5
    with pytest.raises(RewardError, match="and then"):
        model(TEXTS)


def test_rewards_are_shared_while_the_file_is_the_same(tmp_path: Path) -> None:
    code = "def f(texts):\n    return [-1e6 * len(t) for t in texts]\n"
    model = RewardModel(PythonReward(write(tmp_path, code)))
    expected = model(TEXTS)
    save_memo(model, tmp_path / "rewards", 0)
    again = RewardModel(PythonReward(write(tmp_path, code, "moved.py")))
    assert load_memo(again, tmp_path / "rewards") == len(TEXTS)
    assert again(TEXTS).tolist() == expected.tolist()
    edited = RewardModel(PythonReward(write(tmp_path, code + "# a comment\n")))
    assert load_memo(edited, tmp_path / "rewards") == 0


FILES = {
    "def g(texts): pass": "no function f found; ",
    "def ff(texts): pass": "no function f found; did you mean ff?",
    "def f(texts)": "line 1: not Python: expected ':'",
    "f = 7": "f is no function",
    "x = 1\nf = 1 / 0": "line 2: ZeroDivisionError: division by zero",
    "import os.nowhere as f": "line 1: ModuleNotFoundError: No module named",
    "def f(texts): '\0'": "not Python: ",
}


@pytest.mark.parametrize("text", FILES)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as error:
        PythonReward(write(tmp_path, text))
    assert FILES[text] in str(error.value)
    assert str(tmp_path / "reward.py") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_be_read_is_refused_with_the_config(tmp_path: Path) -> None:
    def says(python: str) -> str:
        with pytest.raises(UserError) as error:
            RewardSettings.read({"python": python}).check_itself()
        return str(error.value)

    assert says(f"{tmp_path}/no.py:f") == f"python: {tmp_path}/no.py: no such file"
    (tmp_path / "folder.py").mkdir()
    assert says(f"{tmp_path}/folder.py:f").endswith("cannot be read: Is a directory")
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\ndef f(texts): pass\n")
    assert "latin.py: line 1: not Python: " in says(f"{tmp_path}/latin.py:f")
    if os.geteuid():
        shutil.copyfile(ROOT / "config/rewards/length.py", tmp_path / "closed.py")
        (tmp_path / "closed.py").chmod(0)
        assert says(f"{tmp_path}/closed.py:f").endswith("cannot be read: Permission denied")
    for wrong in (f"{tmp_path}/no.py", "f", "no.py:", "no.py:f()", "no.txt:f"):
        assert "expected path/to/file.py:function, " in says(wrong)


def test_a_program_is_given_one_reward() -> None:
    for files in ({}, {"encoder": "e"}, {"reference": "r"}, {"encoder": "e", "python": "p"}):
        with pytest.raises(UserError, match="the reward should be given by"):
            RewardFiles(**files).check_combination()
    RewardFiles(python="p").check_combination()
    RewardFiles(encoder="e", reference="r").check_combination()


# ---------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "tiny", sharpness=1.0)


def train(base: Path, out: Path, *reward: str, **more: str) -> tuple[int | None, str]:
    """Exit code and output of six steps; ``reward`` are flags."""
    settings = {"kl_factor": 100.0, "steps": 6, "batch_size": 40, "learning_rate": 1e-3}
    words = [*program("train_policy"), "--base-model", str(base), "--out", str(out)]
    words += [*reward, "--settings", json.dumps(settings), "--device", "cpu"]
    words += ["--rewards", str(out.parent / "rewards"), "--num-tokens", "12", "--threads", "1"]
    started = Started(words, environment(**more))
    said = started.wait()
    return started.returncode, said


COUNTED = """import os
steps = 0
def f(texts):
    global steps
    steps += 1
    if str(steps) == os.environ.get("FAILS_AT"):
        raise ConnectionError("the service is not there")
    return [t.count("a") - len(t) / 9 for t in texts]
"""


def test_training_by_a_function_loses_nothing_when_it_fails(base: Path, tmp_path: Path) -> None:
    python = f"--python={write(tmp_path, COUNTED)}"
    code, said = train(base, tmp_path / "one/policy", python)
    assert code == 0, said
    whole = json.loads((tmp_path / "one/policy/run.json").read_text())
    assert whole["reward_function"] == "f"
    assert len(whole["reward_file_sha256"]) == 64
    assert "encoder_sha256" not in whole

    # a file that changed between two jobs: completions are not sampled of such a policy
    check_policy(tmp_path / "one/policy", base, PythonReward(python[9:]).identity)
    changed = PythonReward(write(tmp_path, COUNTED + "# changed", "changed.py")).identity
    with pytest.raises(UserError, match=r"not a policy of this study: .* reward_file_sha256"):
        check_policy(tmp_path / "one/policy", base, changed)

    code, said = train(base, tmp_path / "two/policy", python, FAILS_AT="4")
    assert code == 1
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line == f"error: reward: {tmp_path}/reward.py, line 7: ConnectionError: the service is not there"  # fmt: skip
    assert "Traceback" not in said
    state = torch.load(tmp_path / "two/policy/state.pt", weights_only=True)
    assert 1 <= state["step"] < 6
    code, said = train(base, tmp_path / "two/policy", python)
    assert code == 0, said
    assert f"resuming after step {state['step']} of 6" in said
    again = json.loads((tmp_path / "two/policy/run.json").read_text())
    assert again["policy_sha256"] == whole["policy_sha256"]

    code, said = train(
        base, tmp_path / "two/other", f"--python={write(tmp_path, COUNTED + '#')}", FAILS_AT="3"
    )
    assert (code, "state.pt" in os.listdir(tmp_path / "two/other")) == (1, True)
    code, said = train(base, tmp_path / "two/other", f"--python={write(tmp_path, COUNTED)}")
    assert (code, "made from other parameters, code or data" in said) == (0, True), said


def test_rewards_of_any_size_and_sign_are_trained_on(base: Path, tmp_path: Path) -> None:
    python = write(tmp_path, "def f(texts):\n    return [-500.0 - len(t) for t in texts]\n")
    code, said = train(base, tmp_path / "policy", f"--python={python}")
    assert code == 0, said
    rows = (tmp_path / "policy/training.csv").read_text().splitlines()
    place = rows[0].split(",").index("reward_mean")
    assert all(-600 < float(row.split(",")[place]) < -500 for row in rows[1:])
    assert math.isfinite(float(rows[-1].split(",")[rows[0].split(",").index("loss")]))
