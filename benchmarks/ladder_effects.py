"""Measure the effect of each step of the ladder on nano, and write the table of ladder/README.md.

    PYTHONPATH=src python benchmarks/ladder_effects.py --encoder FOLDER

Seconds and memory are measured in a separate process for each step. Noise and bias are those of the
gradient after some steps of training, over new batches. They are computed with step 5, whose gradients
equal those of the other steps' formulas (see the tests).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from common import KL_FACTOR, PROMPT, reward_model
from measure import ladder_step
from run import NANO, machine

from tinycats import program
from tinycats.files.atomic import write_text

HERE = Path(__file__).parent
README = HERE.parent / "ladder" / "README.md"
BEGIN = "<!-- effects: written by python benchmarks/ladder_effects.py -->\n"
END = "<!-- end of effects -->"


def time_of(number: int, args: argparse.Namespace) -> dict[str, float]:
    """Seconds per 1000 completions and peak memory of one step."""
    words = {
        "contestant": f"ladder-{number}",
        "model": args.model,
        "encoder": args.encoder,
        "batch": args.batch,
        "steps": args.steps,
        "threads": args.threads,
        "seconds": 120,
    }
    command = [sys.executable, str(HERE / "measure.py")]
    command += [word for key, value in words.items() for word in (f"--{key}", str(value))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    stages = [sum(v for k, v in s.items() if k != "reward") for s in found["stages"]]
    scale = 1000 / args.batch
    return {
        "seconds": scale * median(found["seconds"]),
        "seconds_without_reward": scale * median(stages),
        "peak_gb": found["peak_bytes"] / 1e9,
    }


def gradients(args: argparse.Namespace) -> dict[str, float]:
    """Signal-to-noise ratio with and without the baseline, and a comparison of the two KL gradients."""
    import torch

    from tinycats.models.folders import load_causal_lm

    tree = ladder_step(5)
    policy, tokenizer = load_causal_lm(args.model)
    base, _ = load_causal_lm(args.model)
    prompt_ids, end = tokenizer(PROMPT, add_special_tokens=False).input_ids, tokenizer.eos_token_id
    n = len(prompt_ids) + 4
    sampler = tree.Sampler(*map(tree.network_with_onednn, (policy, base)), prompt_ids, 4, end)
    rewards = reward_model(args.encoder, "cpu")
    generator = torch.Generator().manual_seed(0)

    def draw() -> tuple[Any, Any]:
        rollout = sampler.sample(args.batch, generator)
        ids = [prompt_ids + list(tokens) for tokens in rollout.token_ids]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [list(rollout.token_ids[i]) for i in rollout.index.tolist()], rewards(texts)[
            rollout.index
        ]

    def gradient(advantage: str, kl: str, drawn: Any, values: Any, kl_factor: float) -> Any:
        tree.ADVANTAGE, tree.KL = advantage, kl
        policy.zero_grad()
        tree.loss(policy, base, prompt_ids, drawn, values, n, kl_factor, end)
        parameters = [p.grad for p in policy.parameters() if p.grad is not None]
        return torch.cat([g.flatten() for g in parameters]).double()

    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4, weight_decay=0.01)
    for _ in range(args.training_steps):
        gradient("leave_one_out", "policy_to_base", *draw(), KL_FACTOR)
        optimizer.step()

    reward_none, reward_loo, post, whole = [], [], [], []
    for _ in range(args.batches):
        drawn, values = draw()
        reward_none.append(gradient("reward", "base_to_policy", drawn, values, 0.0))
        reward_loo.append(gradient("leave_one_out", "base_to_policy", drawn, values, 0.0))
        zero = torch.zeros_like(values)
        post.append(gradient("reward", "base_to_policy", drawn, zero, KL_FACTOR))
        whole.append(gradient("reward", "policy_to_base", drawn, zero, KL_FACTOR))
    a, b = torch.stack(post).mean(0), torch.stack(whole).mean(0)
    return {
        "signal_to_noise_none": signal_to_noise(reward_none),
        "signal_to_noise_leave_one_out": signal_to_noise(reward_loo),
        "cosine_of_kl_gradients": float(torch.dot(a, b) / (a.norm() * b.norm())),
        "length_of_posts_over_whole": float(a.norm() / b.norm()),
    }


def signal_to_noise(batches: list[Any]) -> float:
    """Norm of the mean gradient / noise of one batch's gradient, from independent batches."""
    import torch

    g = torch.stack(batches)
    k = len(g)
    squares = g.pow(2).sum(1)
    signal = (g.sum(0).pow(2).sum() - squares.sum()) / (k * (k - 1))
    noise = squares.mean() - signal
    return float((signal.clamp(min=0) / noise).sqrt())


def table(found: dict[str, Any]) -> str:
    times, g = found["times"], found["gradients"]
    noise = (g["signal_to_noise_leave_one_out"] / g["signal_to_noise_none"]) ** 2
    effects = [
        "",
        f"signal to noise of the reward's gradient {g['signal_to_noise_none']:.2f} →"
        f" {g['signal_to_noise_leave_one_out']:.2f}: the same as with a batch {noise:.1f} × as large",
        f"the KL's gradient changes direction: its cosine with the post's is"
        f" {g['cosine_of_kl_gradients']:.2f}; the post's has {g['length_of_posts_over_whole']:.2f} × its norm",
    ]
    for before, after in ((3, 4), (4, 5)):
        factor = (
            times[before - 1]["seconds_without_reward"] / times[after - 1]["seconds_without_reward"]
        )
        effects.append(f"{factor:.1f} × as fast, without rewards")
    lines = [
        "| step | effect | seconds per 1000 completions | without rewards | peak memory, GB |",
        "|---|---|---|---|---|",
    ]
    for number, (effect, t) in enumerate(zip(effects, times, strict=True), start=1):
        lines.append(
            f"| {number} | {effect} | {t['seconds']:.1f} | {t['seconds_without_reward']:.1f}"
            f" | {t['peak_gb']:.1f} |"
        )
    s, m = found["settings"], found["machine"]
    about = (
        f"nano, {s['batch']} completions of 4 tokens per step, medians of {s['steps']} steps on"
        f" {m['cpu']}, {m['threads']} threads, fp32. Gradients: means of {s['batches']} batches after"
        f" {s['training_steps']} steps of training with KL_FACTOR {KL_FACTOR:.0f}."
    )
    return about + "\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--encoder", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    add("--model", type=Path, default=NANO)
    add("--batch", type=int, default=500)
    add("--steps", type=int, default=3)
    add("--batches", type=int, default=16)
    add("--training-steps", type=int, default=30)
    add("--threads", type=int, default=0)
    add("--readme", type=Path, default=README, help="page to write")
    add("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    from tinycats.compute.devices import set_threads

    args.threads, args.device = set_threads(args.threads), "cpu"
    settings = {k: getattr(args, k) for k in ("batch", "steps", "batches", "training_steps")}
    found = {
        "machine": machine(args),
        "settings": settings,
        "times": [time_of(number, args) for number in range(1, 6)],
        "gradients": gradients(args),
    }
    write_text(args.out / "ladder.json", json.dumps(found, indent=1) + "\n")
    text = README.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    write_text(args.readme, head + BEGIN + table(found) + END + rest.split(END)[1])


if __name__ == "__main__":
    program.run(main)
