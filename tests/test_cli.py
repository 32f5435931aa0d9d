"""`tinycats tell` in a folder as the workflow leaves it, with a (tiny) policy that was trained."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_model import END, ROOT, encoder_folder, environment, program, write_model
from tokenizers.processors import TemplateProcessing
from warm_start import Started, interpreter

from tinycats.language_model.network import Network
from tinycats.language_model.text import encode
from tinycats.models import folders
from tinycats.models.folders import folder_identity, load_causal_lm, write_manifest
from tinycats.policies.record import check_policy
from tinycats.program import UserError
from tinycats.reward.similarity import RewardEncoder, save_reference
from tinycats.stories import tell as cli
from tinycats.stories.storytelling import Request, measure_stories, sample_stories

WEIGHTS = "model.safetensors"
PROMPT = "Once upon a time there was"
POLICY = "results/default/policies/blog/kl=6000/seed=0"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with config.yaml, Snakefile, a base model and one policy of the default study."""
    home = tmp_path_factory.mktemp("home")
    (home / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    (home / "Snakefile").write_text("")
    base = write_model(home / "resources/models/tiny")
    write_manifest(base, {"source": "made in a test"})
    encoder = encoder_folder()
    vector = RewardEncoder(encoder).embed(["cat"])[0]
    save_reference(home / "cat.safetensors", "cat", vector, folder_identity(encoder))
    train = [*program("train_policy"), "--base-model", base, "--encoder", encoder]
    train += ["--reference", home / "cat.safetensors", "--out", home / POLICY]
    train += ["--kl-factor", "6000", "--steps", "5", "--batch-size", "24", "--threads", "1"]
    train += ["--learning-rate", "1e-2", "--device", "cpu"]
    started = Started([str(word) for word in train], environment())
    said = started.wait()
    assert started.returncode == 0, said
    return home


@dataclass
class Told:
    returncode: object
    stdout: str
    stderr: str


Tell = Callable[..., Told]


@pytest.fixture
def tell(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tell:
    """Runs the command in this process, which has the libraries in memory."""

    def run(*words: str, **settings: str) -> Told:
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, "argv", ["tinycats", "tell", *words])
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        code: object = 0
        try:
            cli.main()
        except SystemExit as error:
            code = error.code
        return Told(code, *capsys.readouterr())

    return run


def in_a_terminal(home: Path, *words: str, **more: str) -> str:
    """What a terminal gets."""
    main, side = pty.openpty()
    command = [sys.executable, "-m", "tinycats.stories.tell", "tell", *words]
    settings = environment(TERM="xterm-256color", **more)
    process = subprocess.Popen(command, cwd=home, env=settings, stdout=side)
    os.close(side)
    data = b""
    while select.select([main], [], [], 120)[0]:
        try:
            part = os.read(main, 4096)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        data += part
    assert process.wait() == 0
    os.close(main)
    return data.decode(errors="replace").replace("\r\n", "\n")


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_story_is_told_plainly_and_the_same_twice(tell: Tell) -> None:
    first, second = (tell(PROMPT, "--new-tokens", "30") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.startswith(PROMPT)
    assert len(first.stdout) > len(PROMPT) + 10
    assert "\x1b" not in first.stdout
    other = tell(PROMPT, "--new-tokens", "30", "--story", "1")
    assert other.stdout != first.stdout


def test_special_tokens_in_front_of_a_prompt_are_kept(
    home: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tokenizer that puts its end token in front, as Llama's puts ``<s>``."""
    tokenizer = load_causal_lm(home / "resources/models/tiny")[1]
    begins = TemplateProcessing(single=f"{END} $A", special_tokens=[(END, tokenizer.eos_token_id)])
    load, given = folders.load_causal_lm, []

    def other(*words: Any) -> Any:
        model, found = load(*words)
        found.backend_tokenizer.post_processor = begins
        return model, found

    def draw(*words: Any) -> Any:
        given.append(words[3])
        return draw_story(*words)

    draw_story = cli.draw_story
    monkeypatch.setattr(folders, "load_causal_lm", other)
    monkeypatch.setattr(cli, "draw_story", draw)
    done = tell(PROMPT, "--new-tokens", "5")
    assert given == [[tokenizer.eos_token_id, *encode(tokenizer, PROMPT)]]
    assert done.stdout.startswith(PROMPT), done.stderr


def test_the_command_of_the_readme(tell: Tell) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (words,) = re.findall(r"^tinycats tell (.*)", readme, flags=re.MULTILINE)
    done = tell(*shlex.split(words), "--new-tokens", "10")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Once upon a time there was")


def test_a_terminal_gets_colours_and_no_color_none(home: Path, tell: Tell) -> None:
    words = (PROMPT, "--new-tokens", "60")
    plain = tell(*words).stdout
    coloured = in_a_terminal(home, *words)
    assert re.search(r"\x1b\[38;5;\d+m", coloured)
    assert without_colours(coloured).startswith(plain)
    assert "log π − log p_base, nats" in coloured
    assert "\x1b" not in in_a_terminal(home, *words, NO_COLOR="1")


def test_two_stories_side_by_side(tell: Tell) -> None:
    done = tell(PROMPT, "--new-tokens", "40", "--compare", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("base")
    assert "│ KL factor 6000, seed 0" in lines[0]
    columns = [[line[:38].rstrip(), line[41:].rstrip()] for line in lines[2:] if line.strip()]
    for column in (0, 1):
        assert " ".join(row[column] for row in columns).startswith(PROMPT[:20])
    alone = tell(PROMPT, "--new-tokens", "40").stdout
    assert "".join(r[1] for r in columns).replace(" ", "") == re.sub(r"\s", "", alone)


def test_tokens_and_differences_are_those_of_the_stories_stage(home: Path) -> None:
    base_model, tokenizer = load_causal_lm(home / "resources/models/tiny")
    base, policy = Network(base_model), Network(load_causal_lm(home / POLICY / "model")[0])
    ids = tuple(tokenizer(PROMPT).input_ids)
    request = Request("training", PROMPT, ids, (), 7)
    numbers = np.random.default_rng(7).random(40)
    end = tokenizer.eos_token_id
    for teller in (policy, base):
        told = sample_stories(teller, [request], 40, end)
        streamed = list(cli.draw_story(teller, policy, base, ids, numbers, end))
        assert [token for token, _ in streamed] == told[0]
        (found,) = measure_stories(policy, base, [request], told)
        difference = found["log_prob_policy"] - found["log_prob_base"]
        assert [d for _, d in streamed] == pytest.approx(difference.tolist(), abs=1e-4)
        assert np.abs(difference).max() > 1e-3


def test_bytes_wait_until_they_are_a_letter() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()

    class Bytes:
        def decode(self, ids: list[int], **_: object) -> str:
            return str(tokenizer.decode(ids))

    ids = tokenizer.encode("кот 猫\x1b[2J").ids
    told = [p.text for p in cli.pieces(Bytes(), "Тут", ((i, 0.0) for i in ids), -1)]
    assert told[:5] == ["Тут", "к", "о", "т", " "]
    assert "".join(told) == "Туткот 猫[2J"  # the escape that would clear the screen is gone
    assert cli.printable("a\x07b\nc\u202e") == "ab\nc"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--kl", "500"), "add 500 to training.kl_factors in config.yaml and make it with: snake"),
        (("--kl", "0", "--seed", "1"), "kl=0/seed=1/run.json --cores 1 --resources gpu=1\n"),
        (("--seed", "77", "--kl", "7"), "add 7 to training.kl_factors and 77 to training.seeds in"),
        (("--study", "../elsewhere"), "--study: '../elsewhere' should be letters"),
        (("--variant", "none"), "the study default has no variant 'none'"),
        (("--new-tokens", "500"), "context of 128 tokens; at most 122 will do"),
        (("",), "the prompt is empty"),
        (("\udcff once",), "the prompt '\\udcff once' is not UTF-8 text"),
        (("Once " * 300,), "context of 128 tokens; the prompt must be shorter"),
        (("--study", "x" * 300), "should be letters, digits, dot, dash, underscore, at most 100"),
        (("--study", "none-such", "--new-tokens", "9" * 30), "none-such/policies/blog/kl=6000"),
        (("--new-tokens", "9" * 30), "is more than the model's context of 128 tokens"),
        (("--variant", "mean", "--kl", "1e12"), "no variant 'mean' in its config"),
        (("--seed", "9" * 30), f"add {'9' * 30} to training.seeds"),
    ],
)
def test_what_cannot_be_told_is_one_line(tell: Tell, words: tuple[str, ...], says: str) -> None:
    done = tell(*words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--new-tokens", "0"), "argument --new-tokens: invalid positive number value: '0'"),
        (("--seed", "-1"), "argument --seed: invalid whole number value: '-1'"),
        (("--kl", "much"), "argument --kl: invalid KL factor value: 'much'"),
        (("--kl", "nan"), "argument --kl: invalid KL factor value: 'nan'"),
        (("--kl=-1",), "argument --kl: invalid KL factor value: '-1'"),
        (("--kl", "1e308"), "argument --kl: invalid KL factor value: '1e308'"),
        (("--story", "1e3"), "argument --story: invalid whole number value: '1e3'"),
    ],
)
def test_what_is_no_number_is_said(tell: Tell, words: tuple[str, ...], says: str) -> None:
    done = tell(*words)
    assert done.returncode == 2
    assert says in done.stderr


@pytest.mark.parametrize("study", ["default", "smoke", "one-of-mine"])
def test_the_command_for_a_missing_policy_plans_it(
    study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Path, "exists", lambda path: (path.suffix == ".yaml" and path.is_file()) or path.name == "Snakefile")  # fmt: skip
    with pytest.raises(UserError) as error:
        cli.policy_folder(study, "blog", "6000", 1)
    monkeypatch.undo()
    words = str(error.value).split("make it with: ")[1].split()
    assert words[0] == "snakemake"
    done = subprocess.run(
        [interpreter(), "-m", *words, "-n", "-p", "--nolock", "--forceall"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"--out results/{study}/policies/blog/kl=6000/seed=1 " in done.stdout


def test_a_prompt_of_control_characters_reaches_no_terminal(tell: Tell) -> None:
    done = tell("\x1b[2J\x07\u202e Once", "--new-tokens", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[2J Once")


def test_a_broken_config_is_one_line(home: Path, tell: Tell) -> None:
    (home / "config").mkdir(exist_ok=True)
    (home / "config/broken.yaml").write_text("study: broken\ntraining: [1]\nvariants: 3\n")
    done = tell("--study", "broken")
    assert done.returncode == 1
    assert done.stderr == "error: config: training: [1] found, expected a block of keys\n"


def test_a_swapped_policy_is_refused(home: Path, tmp_path: Path) -> None:
    check_policy(home / POLICY, home / "resources/models/tiny")
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match=r"not a policy of this study: .*base_model_sha256"):
        check_policy(home / POLICY, other)
