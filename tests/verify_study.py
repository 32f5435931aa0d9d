"""Recompute what a study says from what it saved, without the library that made it.

Rewards (sentence-transformers on prompt + completion), both KLs (exact sums over the vocabulary
along each completion, by transformers' forward pass) and the perplexity of stories under the base
are computed anew from saved policies, completions and stories, and compared with summary.csv.
Each policy's first batch is drawn anew from the base, and compared with its tables' first step.
The headline (best achievable reward, shares, best-of-n and prompting at equal KL, intervals, verdicts)
is computed anew by verify_headline.py. What the study's config.yaml asks for is counted in what came of it: settings, steps, completions,
stories, seeds, forced text.

    python tests/verify_study.py --results results/default --models resources/models
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer
from verify_headline import check_headline

# metric → (absolute, relative) difference allowed; a model's last bits depend on its batch
REWARD, PERPLEXITY = "completion_reward", "perplexity_under_base"
KL, KL_REVERSED = "kl_policy_to_base_nats", "kl_base_to_policy_nats"
#: folders of stories that begin with openings
OPENED = ("optimal", "best_of_n", "opening_only", "optimal_prompted")
ALLOWED = {REWARD: (1e-3, 0), KL: (1e-3, 1e-3), KL_REVERSED: (1e-3, 1e-3), PERPLEXITY: (0, 1e-3)}


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_stories(path: Path) -> list[dict]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [s for s in map(json.loads, lines) if s["prompt_group"] == "training"]


class StoryModel:
    """A saved model, run plainly: float32 forward passes over whole sequences."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    @torch.no_grad()
    def log_p(self, prompt: list[int], completions: list[list[int]]) -> list[torch.Tensor]:
        """(tokens, vocabulary) log p at each token of each completion; padding comes after."""
        longest = max(map(len, completions))
        rows = [prompt + ids + [0] * (longest - len(ids)) for ids in completions]
        logits = self.model(torch.tensor(rows)).logits[:, len(prompt) - 1 : -1].double()
        return [logits[i, : len(ids)].log_softmax(-1) for i, ids in enumerate(completions)]

    def log_prob(self, prompt: str, ids: list[int]) -> float:
        (log_p,) = self.log_p(self.encode(prompt), [ids])
        return float(log_p[torch.arange(len(ids)), torch.tensor(ids)].sum())

    def perplexity(self, stories: list[dict]) -> float:
        """exp(mean −log p) over all generated tokens."""
        total = sum(self.log_prob(story["prompt"], story["token_ids"]) for story in stories)
        return math.exp(-total / sum(len(story["token_ids"]) for story in stories))


def kls(policy: StoryModel, base: StoryModel, prompt: str, completions: list) -> np.ndarray:
    """(completions, 2) KL(policy‖base) and KL(base‖policy), summed over the tokens' states."""
    found = []
    for begin in range(0, len(completions), 64):
        part = completions[begin : begin + 64]
        both = (model.log_p(base.encode(prompt), part) for model in (policy, base))
        for p, q in zip(*both, strict=True):
            found.append([float((p.exp() * (p - q)).sum()), float((q.exp() * (q - p)).sum())])
    return np.array(found)


class Disagreements:
    """Counts what differs, and prints it."""

    def __init__(self) -> None:
        self.number = 0

    def expect(self, what: str, found: object, expected: object, near: float = 0) -> None:
        same = found == expected
        if near and isinstance(found, float) and isinstance(expected, float):
            same = abs(found - expected) <= near
        if not same:
            self.number += 1
            print(f"{what}: {found!r}, should be {expected!r}  DISAGREES")


def check_settings(results: Path, config: dict[str, Any], wrong: Disagreements) -> None:
    """What each policy's run.json says, and how long and large its tables are."""
    training = config["training"]
    asked = {
        (variant, float(factor), seed): {
            **{k: v for k, v in training.items() if k not in ("kl_factors", "seeds")},
            **config["variants"][variant],
            "kl_factor": float(factor),
            "seed": seed,
        }
        for variant in config["variants"]
        for factor in training["kl_factors"]
        for seed in training["seeds"]
    }
    folders = {
        (path.parts[-3], float(path.parts[-2][3:]), int(path.name[5:])): path
        for path in results.glob("policies/*/kl=*/seed=*")
    }
    wrong.expect("policies", sorted(folders), sorted(asked))
    for who, settings in asked.items():
        if who not in folders:
            continue
        folder, name = folders[who], str(folders[who].relative_to(results))
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        for key, value in settings.items():
            if key in run["settings"]:
                wrong.expect(f"{name} {key}", run["settings"][key], value)
        for key in ("learning_rate", "weight_decay", "batch_size", "steps", "seed", "kl_factor"):
            wrong.expect(f"{name} has {key}", key in run["settings"], True)
        per_nat = settings["kl_factor"] / 50257
        wrong.expect(f"{name} per nat", run["kl_coefficient_per_nat"], per_nat, 1e-12)
        steps = read_csv(folder / "training.csv")
        wrong.expect(
            f"{name} steps", [int(r["step"]) for r in steps], list(range(1, settings["steps"] + 1))
        )
        size = settings["batch_size"]
        top: dict[str, list[int]] = defaultdict(list)
        for row in read_csv(folder / "top_completions.csv"):
            top[row["step"]].append(int(row["count"]))
        for row in steps:
            most = top[row["step"]]
            where = f"{name} step {row['step']}"
            wrong.expect(f"{where} top 10", float(row["top_10_mass"]), sum(most) / size, 1e-6)
            wrong.expect(f"{where} top 1", float(row["top_1_mass"]), max(most) / size, 1e-6)
            distinct = int(row["distinct_completions"])
            wrong.expect(f"{where} rows of top completions", len(most), min(10, distinct))
            wrong.expect(f"{where} entropy is positive", float(row["entropy_nats"]) >= 0, True)
            unit = float(row[KL_REVERSED]) / 50257 / settings["num_tokens"]
            wrong.expect(
                f"{where} KL in the post's unit", float(row["kl_post_unit"]), unit, 1e-5 * unit
            )


def check_counts(results: Path, config: dict[str, Any], forced: str, wrong: Disagreements) -> None:
    """How many completions and stories there are of each model, and what they begin with."""
    evaluation = config["evaluation"]
    drawn = {
        path.relative_to(results / "completions"): sum(int(r["count"]) for r in read_csv(path))
        for path in results.glob("completions/**/*.csv")
        if path.name not in ("first_token.csv", "searched.csv")
    }
    for path, count in drawn.items():
        of_base = path.as_posix() == "base.csv"
        asked = evaluation["base_completions" if of_base else "policy_completions"]
        prompts = len(config["training"]["prompts"])  # each has an equal part, rounded up
        wrong.expect(f"completions/{path}", count, -(-asked // prompts) * prompts)
    for row in read_csv(results / "completions/prompted.csv"):
        wrong.expect("prompted completion", row["text"][: len(forced)], forced)
    training = config["training"]
    policies = len(config["variants"]) * len(training["kl_factors"]) * len(training["seeds"])
    wrong.expect("tables of completions", len(drawn), 2 + policies)
    files = [p for p in results.glob("stories/**/*.jsonl") if not p.name.endswith(".base.jsonl")]
    opened = [p for p in files if p.relative_to(results).parts[1] in OPENED]
    told = [p for p in files if p not in opened]
    wrong.expect("files of stories", len(told), 2 * len(training["seeds"]) + policies)
    # three kinds beside each policy, and one beside the prompted base
    wrong.expect("files of openings", len(opened), 3 * policies + len(training["seeds"]))
    own = {"training": evaluation["prompts"]["training"]}
    each_prompt = min(
        evaluation["stories_per_training_prompt"], evaluation.get("opening_stories", math.inf)
    )
    begun = Counter({(g, prompt): each_prompt for g, prompts in own.items() for prompt in prompts})
    for path in opened:
        stories = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        where = path.relative_to(results)
        wrong.expect(f"{where}", Counter((s["prompt_group"], s["prompt"]) for s in stories), begun)
        at_once = all(s["text"].startswith(s["forced"]) and s["forced"] for s in stories)
        wrong.expect(f"{where} begins as it should", at_once, True)
    expected = Counter(
        {
            (group, prompt): evaluation[
                f"stories_per_{'training' if group == 'training' else 'other'}_prompt"
            ]
            for group, prompts in evaluation["prompts"].items()
            for prompt in prompts
        }
    )
    seeds_of: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for path in told:
        stories = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        where = path.relative_to(results)
        wrong.expect(
            f"{where}", Counter((s["prompt_group"], s["prompt"]) for s in stories), expected
        )
        begin = forced if path.parent.name == "prompted" else ""
        wrong.expect(f"{where} forced", {s["forced"] for s in stories}, {begin})
        at_once = all(s["text"].startswith(begin) for s in stories)
        wrong.expect(f"{where} begins as it should", at_once, True)
        longest = max(len(s["token_ids"]) for s in stories)
        wrong.expect(f"{where} is no longer than asked", longest <= evaluation["new_tokens"], True)
        seeds_of[path.stem].add(tuple(s["sample_seed"] for s in stories))
    for name, seeds in seeds_of.items():  # the stories of a seed pair up over models
        wrong.expect(f"stories of {name}: lists of random seeds", len(seeds), 1)
    each = {s for seeds in seeds_of.values() for own in seeds for s in own}
    number = sum(expected.values()) * len(training["seeds"])
    wrong.expect("random seeds of stories, all different", len(each), number)


def check_first_batch(
    results: Path,
    config: dict[str, Any],
    base: StoryModel,
    rewards_of: Callable[[list[str]], np.ndarray],
    wrong: Disagreements,
) -> None:
    """The first step's row of every policy: its batch is the base's, drawn anew from the seed."""
    training = config["training"]
    (text,) = training["prompts"]
    prompt, size = base.encode(text), training["batch_size"]
    new, end = training["num_tokens"] - len(prompt), base.tokenizer.eos_token_id
    # a uniform number may lie so near to the edge between two tokens that rounding decides
    moved = 2 if training["precision"] == "fp32" else size // 10
    for seed in training["seeds"]:
        (word,) = np.random.SeedSequence([seed, 0]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(word) // 2)
        u = torch.rand(size, new, generator=generator, dtype=torch.float64)
        drawn: list[tuple[int, ...]] = []
        entropy = 0.0
        seen: dict[tuple[int, ...], tuple[torch.Tensor, float]] = {}
        for i in range(size):
            ids: tuple[int, ...] = ()
            while len(ids) < new and end not in ids:
                if ids not in seen:
                    log_p = base.log_p(prompt, [[*ids, end]])[0][-1]
                    seen[ids] = log_p.exp().cumsum(0), -float((log_p.exp() * log_p).sum())
                below, own = seen[ids]
                entropy += own / size
                token = int(torch.searchsorted(below, u[i, len(ids)] * below[-1], right=True))
                ids = (*ids, token)
            drawn.append(ids)
        texts = [
            str(base.tokenizer.decode([*prompt, *ids], skip_special_tokens=True)) for ids in drawn
        ]
        rewards, counts = rewards_of(texts), Counter(drawn)
        most = [count for _, count in counts.most_common(10)]
        expected = {
            "reward_mean": float(rewards.mean()),
            "reward_std": float(rewards.std()),
            "entropy_nats": entropy,
            KL: 0.0,
            KL_REVERSED: 0.0,
            "distinct_completions": float(len(counts)),
            "top_1_mass": most[0] / size,
            "top_10_mass": sum(most) / size,
        }
        near = {
            "reward_mean": moved / size,
            "reward_std": moved / size,
            "entropy_nats": 0.1 * moved * entropy / size + 1e-3,
            "distinct_completions": moved,
            "top_1_mass": moved / size + 1e-6,
            "top_10_mass": moved / size + 1e-6,
        }
        by_text = Counter(
            str(base.tokenizer.decode([*ids], clean_up_tokenization_spaces=False)) for ids in drawn
        )
        for folder in sorted(results.glob(f"policies/*/kl=*/seed={seed}")):
            where = f"{folder.relative_to(results)} step 1"
            row = read_csv(folder / "training.csv")[0]
            for name, value in expected.items():
                wrong.expect(f"{where} {name}", float(row[name]), value, near.get(name, 1e-5))
            first = [r for r in read_csv(folder / "top_completions.csv") if r["step"] == "1"]
            other = sum(abs(int(r["count"]) - by_text[r["text"]]) for r in first)
            wrong.expect(f"{where}: few draws differ", other <= moved, True)


def main(results: Path, models: Path, policies: int | None = None, name: str | None = None) -> int:
    """Print every value, here and in summary.csv; return the number of disagreements."""
    # of the model folders, the encoder is the one with sentence-transformers' list of modules
    folders = [file.parent for file in sorted(models.glob("*/config.json"))]
    encoders = [folder for folder in folders if (folder / "modules.json").exists()]
    bases = [f for f in folders if f not in encoders and name in (None, f.name)]
    if len(bases) != 1 or len(encoders) != 1:
        sys.exit(f"{models}: base models {bases}, encoders {encoders}: choose one with --base")
    base, encoder = StoryModel(bases[0]), SentenceTransformer(str(encoders[0]), device="cpu")
    (reference,) = (results / "reference").glob("*.safetensors")
    with safe_open(reference, "numpy") as file:
        concept = encoder.encode(file.metadata()["concept"], normalize_embeddings=True)
    example = read_stories(min(results.glob("stories/prompted/seed=*.jsonl")))[0]
    forced = example["forced"]
    config = yaml.safe_load((results / "config.yaml").read_text(encoding="utf-8"))

    settings = [f.relative_to(results / "policies") for f in results.glob("policies/*/kl=*")]
    values: dict[tuple[tuple[str, ...], str], list[float]] = defaultdict(list)  # one value a seed
    rewards: dict[str, float] = {}
    wrong = Disagreements()

    def rewards_of(texts: list[str]) -> np.ndarray:
        if new := sorted(set(texts) - set(rewards)):
            vectors = encoder.encode(new, batch_size=256, normalize_embeddings=True)
            rewards.update(zip(new, (vectors @ concept).tolist(), strict=True))
        return np.array([rewards[text] for text in texts])

    for folder in [Path("base"), Path("prompted"), *sorted(settings)[:policies]]:
        trained = len(folder.parts) > 1
        who: tuple[str, ...] = (folder.name, "", "")
        if trained:
            who = ("policy", folder.parts[0], folder.name[3:])
        for path in sorted(results.glob(f"completions/{folder}{'/seed=*' * trained}.csv")):
            rows = read_csv(path)
            counts = np.array([int(row["count"]) for row in rows])
            ids = [[int(token) for token in row["token_ids"].split()] for row in rows]
            whole = [base.encode(row["prompt"]) + own for row, own in zip(rows, ids, strict=True)]
            texts = [str(base.tokenizer.decode(own, skip_special_tokens=True)) for own in whole]
            each = rewards_of(texts)
            stated = np.array([float(row["reward"]) for row in rows])
            furthest = float(np.abs(stated - each).max())
            wrong.expect(f"{path.relative_to(results)}: furthest reward", furthest, 0.0, 1e-3)
            values[who, REWARD].append(counts @ each / counts.sum())
            if trained:
                policy = StoryModel(results / "policies" / folder / path.stem / "model")
                both = sum(
                    counts[own] @ kls(policy, base, text, [ids[i] for i in np.flatnonzero(own)])
                    for text in config["training"]["prompts"]
                    if (own := np.array([row["prompt"] == text for row in rows])).any()
                )
                both = both / counts.sum()
                values[who, KL].append(both[0])
                values[who, KL_REVERSED].append(both[1])
        if who[0] == "prompted":  # conditioning costs −log p of what was conditioned on
            paid = [-base.log_prob(p, base.encode(forced)) for p in config["training"]["prompts"]]
            values[who, KL].append(float(np.mean(paid)))
        for path in sorted(results.glob(f"stories/{folder}/seed=*.jsonl")):
            if not path.name.endswith(".base.jsonl"):
                values[who, PERPLEXITY].append(base.perplexity(read_stories(path)))

    in_summary: dict[tuple[tuple[str, ...], str], float] = {}
    for row in read_csv(results / "tables/summary.csv"):
        who = (row["model"], row["variant"], row["kl_factor"])
        if row["metric"] in ALLOWED and (who, row["metric"]) in values:
            in_summary[who, row["metric"]] = float(row["mean"])
        elif row["metric"] in ALLOWED and row["model"] == "policy" and policies is None:
            sys.exit(f"{who} {row['metric']}: in summary.csv, but nothing to compute it from")
    print(f"{'model':28} {'metric':30} {'here':>10} {'summary':>10} {'difference':>11}")
    for (who, metric), seeds in values.items():
        here, there = float(np.mean(seeds)), in_summary.get((who, metric), math.nan)
        absolute, relative = ALLOWED[metric]
        agree = abs(here - there) <= absolute + relative * abs(there)  # false if there is none
        wrong.number += not agree
        line = f"{' '.join(filter(None, who)):28} {metric:30} {here:10.5f} {there:10.5f}"
        print(f"{line} {here - there:11.1e}{'' if agree else '  DISAGREES'}")
    check_counts(results, config, forced, wrong)
    if policies is None:
        check_settings(results, config, wrong)
        check_headline(results, wrong)
        check_first_batch(results, config, base, rewards_of, wrong)
    return wrong.number


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="results/<study>")
    parser.add_argument("--models", type=Path, required=True, help="resources/models")
    parser.add_argument("--policies", type=int, help="only the first N settings")
    parser.add_argument("--base", help="folder of the base model, where there are several")
    args = parser.parse_args()
    sys.exit(1 if main(args.results, args.models, args.policies, args.base) else 0)
