"""Measure one implementation in this process; called by ``run.py``, which reads one line of JSON.

python benchmarks/measure.py --contestant tinycats --model FOLDER --encoder FOLDER
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import CONCEPT, KL_FACTOR, PROMPT, Stopwatch, finish, reward_model

HERE = Path(__file__).parent


def ladder_step(number: int) -> Any:
    (path,) = (HERE.parent / "ladder").glob(f"{number}_*.py")
    spec = importlib.util.spec_from_file_location(f"ladder_{number}", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def ladder(number: int, args: argparse.Namespace, watch: Stopwatch) -> Callable[[], dict[str, int]]:
    """The training loop of a ladder file, stage by stage."""
    import torch
    from sentence_transformers import SentenceTransformer, util

    from tinycats.models.folders import load_causal_lm

    module = ladder_step(number)
    torch.manual_seed(0)
    model, tokenizer = load_causal_lm(args.model, args.device)
    base, _ = load_causal_lm(args.model, args.device)
    encoder = SentenceTransformer(str(args.encoder), device=args.device)
    concept = encoder.encode(CONCEPT, convert_to_tensor=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.01)
    prompt_ids, end_id = tokenizer.encode(PROMPT, add_special_tokens=False), tokenizer.eos_token_id
    num_tokens = len(prompt_ids) + args.new_tokens

    def score(output_ids: Any) -> Any:
        texts = tokenizer.batch_decode(output_ids, skip_special_tokens=True)
        embeddings = encoder.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        return util.cos_sim(concept, embeddings)[0]

    if number == 5:
        nets = (module.network_with_onednn(model), module.network_with_onednn(base))
        tree = module.Sampler(*nets, prompt_ids, args.new_tokens, end_id)
        sample, gradient = (
            watch.wrap("sample", tree.sample),
            watch.wrap("gradient", module.objective),
        )
        generator = torch.Generator().manual_seed(0)
    rewards = watch.wrap("reward", score)
    update = watch.wrap("optimiser", optimizer.step)

    def step_of_the_tree() -> dict[str, int]:
        optimizer.zero_grad()
        drawn = sample(args.batch, generator, keep_graph=True)
        values = rewards([prompt_ids + list(ids) for ids in drawn.token_ids]).cpu()[drawn.index]
        gradient(tree, drawn, values, num_tokens, KL_FACTOR)
        update()
        return {"distinct": len(drawn.token_ids)}

    if number == 5:
        return step_of_the_tree
    rollout = watch.wrap("sample", module.rollout)
    backward = watch.wrap("gradient", lambda value: value.backward())

    def step() -> dict[str, int]:
        output_ids, log_probs, kls = rollout(
            model, base, prompt_ids, num_tokens, args.batch, end_id
        )
        value = module.objective(log_probs, kls, rewards(output_ids), num_tokens, KL_FACTOR)
        optimizer.zero_grad()
        backward(value)
        update()
        kls.sum(1).mean().item()
        return {"distinct": len(torch.unique(output_ids, dim=0))}

    return step


def watch_stages(trainer: Any, watch: Any) -> None:
    """Wrap the stages of a trainer's step by ``watch``."""
    mixture, optimizer = trainer.mixture, trainer.optimizer
    mixture.sample = watch.wrap("sample", mixture.sample)
    trainer.reward = watch.wrap("reward", trainer.reward)
    mixture.backward = watch.wrap("gradient", mixture.backward)
    optimizer.step = watch.wrap("optimiser", optimizer.step)


def tinycats(args: argparse.Namespace, watch: Stopwatch) -> Callable[[], dict[str, int]]:
    """The library's trainer as in a study, with everything that it records."""
    from tinycats.models.folders import load_causal_lm
    from tinycats.policies.settings import TrainingSettings
    from tinycats.policies.training import Trainer

    policy, tokenizer = load_causal_lm(args.model, args.device)
    base, _ = load_causal_lm(args.model, args.device)
    prompt_tokens = len(tokenizer(PROMPT, add_special_tokens=False).input_ids)
    prompts = tuple(getattr(args, "prompts", None) or (PROMPT,))
    settings = TrainingSettings(
        prompts=prompts,
        kl_factor=KL_FACTOR,
        seed=0,
        steps=args.steps,
        batch_size=args.batch,
        num_tokens=prompt_tokens + args.new_tokens,
        learning_rate=0.0,
        weight_decay=0.01,
        advantage="leave_one_out",
        kl="policy_to_base",
        precision=args.precision,
    )
    reward = reward_model(args.encoder, args.device)
    trainer = Trainer(policy, base, tokenizer, reward, settings, "benchmark", Path("unused"))
    watch_stages(trainer, watch)

    def step() -> dict[str, int]:
        trainer.take_step()
        return {"distinct": trainer.rows[-1]["distinct_completions"]}

    return step


def measure(
    step: Callable[[], dict[str, int]], args: argparse.Namespace, watch: Stopwatch
) -> dict[str, Any]:
    """Time ``--steps`` steps, or fewer if ``--seconds`` have passed, but at least one."""
    # on a GPU, timing a stage needs a synchronisation: time complete steps first, then stages
    watch.on = args.device == "cpu"
    result: dict[str, Any] = {"seconds": [], "stages": [], "distinct": []}
    began = time.perf_counter()
    while len(result["seconds"]) < args.steps:
        watch.seconds.clear()
        before = watch.now()
        facts = step()
        result["seconds"].append(watch.now() - before)
        result["distinct"].append(facts["distinct"])
        if watch.on:
            result["stages"].append(dict(watch.seconds))
        if time.perf_counter() - began > args.seconds:
            break
    result["total_seconds"] = time.perf_counter() - began
    if not watch.on:
        watch.on = True
        for _ in range(3):
            watch.seconds.clear()
            before = watch.now()
            step()
            stages = dict(watch.seconds)
            result["stages"].append({**stages, "whole_step": watch.now() - before})
    return result


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--contestant", required=True, help="ladder-1 … ladder-5, tinycats, or trl")
    add("--model", type=Path, required=True)
    add("--encoder", type=Path, required=True)
    add(
        "--prompts",
        nargs="+",
        help="training prompts of tinycats, of equal length; else the post's",
    )
    add("--batch", type=int, default=1000)
    add("--new-tokens", type=int, default=4)
    add("--precision", default="fp32", choices=["fp32", "bf16"])
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add("--threads", type=int, default=0)
    add("--steps", type=int, default=5)
    add("--seconds", type=float, default=60, help="start no step after this many seconds")
    return parser


def contestant(args: argparse.Namespace) -> dict[str, Any]:
    """Measurements of the implementation that the arguments name."""
    watch = Stopwatch(args.device)
    if args.contestant == "trl":
        from with_trl import run

        return run(args, watch)
    if args.contestant == "tinycats":
        return measure(tinycats(args, watch), args, watch)
    return measure(ladder(int(args.contestant.removeprefix("ladder-")), args, watch), args, watch)


def main() -> None:
    args = parser().parse_args()
    from tinycats.compute.devices import set_threads

    set_threads(args.threads)
    finish(contestant(args), args.device)


if __name__ == "__main__":
    main()
