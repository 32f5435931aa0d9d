"""Checks of ``gpu.py`` on the device: gradients and rewards against the CPU, and the stages' programs."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import run
import torch
import yaml
from common import CONCEPT, KL_FACTOR, PROMPT
from torch import Tensor

OURS = Path(__file__).resolve().parents[1]
POLICIES_AT_ONCE = 4


def gradients(args: argparse.Namespace) -> dict[str, float]:
    """‖g − g₆₄‖ / ‖g₆₄‖ of a batch's gradient for both KL terms, and |Δ log π| of its completions.

    The reference is autograd over plain forward passes in float64 on the CPU. The policy is nano with
    noise on its weights, so that it differs from the base.
    """
    from tinycats.language_model.network import network_with_onednn
    from tinycats.models.folders import load_causal_lm
    from tinycats.policies.objective import kl_coefficient_per_nat
    from tinycats.policies.rollout import Sampler

    (policy, tokenizer), (base, _) = (load_causal_lm(run.NANO) for _ in range(2))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.02 * p.std() * torch.randn(p.shape, generator=noise))
    plain, plain_base = (load_causal_lm(run.NANO)[0].double() for _ in range(2))
    plain.load_state_dict(policy.state_dict())
    ids = tokenizer(PROMPT, add_special_tokens=False).input_ids
    policy, base = policy.to(args.device), base.to(args.device)
    networks = network_with_onednn(policy), network_with_onednn(base)
    sampler = Sampler(*networks, ids, 4, tokenizer.eos_token_id)
    batch, coefficient = 40 if args.quick else 1000, kl_coefficient_per_nat(KL_FACTOR)
    advantage = torch.rand(batch, generator=noise)
    found: dict[str, float] = {}
    for kl in ("base_to_policy", "policy_to_base"):
        policy.zero_grad(set_to_none=True)
        rollout = sampler.sample(batch, torch.Generator().manual_seed(2), keep_graph=True)
        sampler.backward(rollout, advantage, coefficient, kl, 10)
        plain.zero_grad(set_to_none=True)
        loss, log_prob = plain_loss(
            *(plain, plain_base, ids, rollout, advantage.double(), coefficient, kl, 10)
        )
        loss.backward()
        ours = torch.cat([p.grad.flatten().cpu().double() for p in policy.parameters()])
        theirs = torch.cat([p.grad.flatten() for p in plain.parameters() if p.grad is not None])
        found[kl] = float((ours - theirs).norm() / theirs.norm())
        found["log_prob"] = float((rollout.log_prob - log_prob.detach()).abs().max())
    return found


def plain_loss(
    plain: Any,
    plain_base: Any,
    prompt: list[int],
    rollout: Any,
    advantage: Tensor,
    coefficient: float,
    kl: str,
    num_tokens: int,
) -> tuple[Tensor, Tensor]:
    """The loss by plain forward passes over whole completions, and Σ_t log π, ``(batch,)``."""
    new = rollout.tokens.shape[1]
    tokens = torch.tensor([[*ids, *[-1] * (new - len(ids))] for ids in rollout.token_ids])
    mask, tokens = tokens >= 0, tokens.clamp(min=0)
    inputs = torch.cat([torch.tensor([prompt]).expand(len(tokens), -1), tokens], 1)[:, :-1]
    at = slice(len(prompt) - 1, None)
    log_p = torch.log_softmax(plain(inputs).logits[:, at], -1)
    with torch.no_grad():
        log_p_base = torch.log_softmax(plain_base(inputs).logits[:, at], -1)
    taken = log_p.gather(2, tokens[:, :, None])[:, :, 0] * mask
    if kl == "base_to_policy":
        kls = (log_p_base.exp() * (log_p_base - log_p)).sum(-1) * mask
        weight = advantage[:, None].expand(-1, new)
    else:
        kls = (log_p.exp() * (log_p - log_p_base)).sum(-1) * mask
        paid = kls.detach()[rollout.index]
        after = paid.flip(1).cumsum(1).flip(1) - paid
        weight = advantage[:, None] - coefficient * after
    of_token, of_kl = (-weight * taken[rollout.index]).sum(1), kls[rollout.index].sum(1)
    return (of_token + coefficient * of_kl).mean() / num_tokens, taken[rollout.index].sum(1)


def rewards(args: argparse.Namespace) -> dict[str, float]:
    """Largest difference of rewards between the device and the CPU, and alone against in a batch."""
    from tinycats.reward.similarity import RewardEncoder

    tails = ["a cat", "a little girl named Lily", "two dogs and a cat who loved the big red ball"]
    texts = [f"{PROMPT} {tail}{' and' * n}" for tail in tails for n in range(30)]
    there = RewardEncoder(args.encoder, args.device)
    reference = there.embed([CONCEPT])[0]
    found = there.similarities(texts, reference)
    on_cpu = RewardEncoder(args.encoder, "cpu").similarities(texts, reference)
    alone = [there.similarities([text], reference)[0] for text in texts[::9]]
    return {
        "cpu": float(np.abs(found - on_cpu).max()),
        "alone": float(np.abs(found[::9] - alone).max()),
    }


def programs(args: argparse.Namespace) -> dict[str, float]:
    """Seconds of each stage's program with the default study's settings, start included."""
    config = yaml.safe_load((OURS / "config.yaml").read_text(encoding="utf-8"))
    evaluation, device = config["evaluation"], args.device
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        cat, policy = out / "cat.safetensors", out / "policies/blog/kl=6000/seed=0"
        stories = out / "stories"
        told = stories / "blog/kl=6000/seed=0.jsonl"
        few = {"steps": 2, "batch_size": 12} if args.quick else {}
        told_options: dict[str, Any] = {
            "prompts": json.dumps({**evaluation["prompts"], "training": [PROMPT]})
        }
        for name in ("stories_per_training_prompt", "stories_per_other_prompt", "new_tokens"):
            told_options[name] = 2 if args.quick else evaluation[name]
        told_options |= {"base_model": run.NANO, "seed": 0, "device": device}
        drawn = ("base_completions", "policy_completions")
        counts = {name: 100 if args.quick else evaluation[name] for name in drawn}
        reward = {"encoder": args.encoder, "reference": cat, "device": device}

        def timed(stage: str, name: str, **options: Any) -> None:
            command = [sys.executable, str(OURS / "workflow/scripts" / f"{name}.py")]
            for key, value in options.items():
                values = value if isinstance(value, list) else [value]
                command += [f"--{key.replace('_', '-')}", *map(str, values)]
            began = time.monotonic()
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(OURS / "src"), *PATH])}
            subprocess.run(command, check=True, env=environment)
            seconds[stage] = time.monotonic() - began
            print(f"{stage}: {seconds[stage]:.1f} s", flush=True)

        timed("reference", "embed_reference", encoder=args.encoder, concept=CONCEPT, out=cat)
        train = {**reward, "base_model": run.NANO, "rewards": out / "rewards", **few}
        timed("policy, KL 6000", "train_policy", out=policy, kl_factor=6000, **train)
        second = policy.with_name("seed=1")
        timed("its second seed", "train_policy", out=second, kl_factor=6000, seed=1, **train)
        timed("base stories", "tell_stories", out=stories, prompted_with=" a cat", **told_options)
        base_stories = stories / "base/seed=0.jsonl"
        own = {"policy": policy / "model", "base_stories": base_stories, "out": told}
        timed("policy's stories", "tell_stories", **own, **told_options)
        timed(
            "completions of two policies",
            "sample_completions",
            **reward,
            **counts,
            base_model=run.NANO,
            policies=[policy, second],
            rewards=out / "rewards",
            prompts=json.dumps([PROMPT]),
            prompted_with=" a cat",
            num_tokens=10,
            out=out / "completions",
        )
        timed(
            "scores of three story sets",
            "score",
            **reward,
            base_stories=[base_stories],
            prompted_stories=[stories / "prompted/seed=0.jsonl"],
            policy_stories=[told],
            forgetting=[told.with_suffix(".base.jsonl")],
            tokenizer=run.NANO,
            concept_words=json.dumps(config["concept_words"]),
            run=policy / "run.json",
            out=out / "scores",
        )
    return seconds


def policies(args: argparse.Namespace) -> dict[str, Any]:
    """Wall time of training the default study's policies, some at a time, start of each included."""
    training = yaml.safe_load((OURS / "config.yaml").read_text(encoding="utf-8"))["training"]
    few = {"steps": 2, "batch_size": 12} if args.quick else {}
    settings = {
        key: training[key] for key in ("steps", "batch_size", "num_tokens", "learning_rate")
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(OURS / "src"), *PATH])}

    def program(name: str, **options: Any) -> list[str]:
        flags = [(f"--{key.replace('_', '-')}", str(value)) for key, value in options.items()]
        script = str(OURS / "workflow/scripts" / f"{name}.py")
        return [sys.executable, script, *(word for flag in flags for word in flag)]

    with tempfile.TemporaryDirectory() as scratch:
        out, cat = Path(scratch), Path(scratch) / "cat.safetensors"
        embed = program("embed_reference", encoder=args.encoder, concept=CONCEPT, out=cat)
        subprocess.run(embed, check=True, env=environment)
        common = {"encoder": args.encoder, "reference": cat, "device": args.device, "threads": 4}
        common |= {"base_model": run.NANO, "rewards": out / "rewards", **settings, **few}

        def train(factor_and_seed: tuple[float, int]) -> dict[str, float]:
            factor, seed = factor_and_seed
            folder = out / f"policies/blog/kl={factor:g}/seed={seed}"
            command = program("train_policy", out=folder, kl_factor=factor, seed=seed, **common)
            subprocess.run(command, check=True, env=environment)
            record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            last = (folder / "training.csv").read_text(encoding="utf-8").splitlines()
            row = dict(zip(last[0].split(","), last[-1].split(","), strict=True))
            found = {"kl_factor": factor, "seed": seed, "seconds": record["seconds"]}
            return found | {k: float(row[k]) for k in ("reward_mean", "kl_policy_to_base_nats")}

        every = [(f, s) for s in training["seeds"] for f in training["kl_factors"]]
        began = time.monotonic()
        with ThreadPoolExecutor(POLICIES_AT_ONCE) as pool:
            trained = list(pool.map(train, every[:2] if args.quick else every))
        wall = time.monotonic() - began
    return {"at_once": POLICIES_AT_ONCE, "wall_seconds": wall, "policies": trained}


#: where a package that was carried here lies
PATH = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
