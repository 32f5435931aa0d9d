"""Recompute what a study says from what it saved, without the library that made it.

Rewards (sentence-transformers on prompt + completion), both KLs (exact sums over the vocabulary
along each completion, by transformers' forward pass) and the perplexity of stories under the base
are computed anew from saved policies, completions and stories, and compared with summary.csv.

    python tests/verify_study.py --results results/default --models resources/models
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

# metric → (absolute, relative) difference allowed; a model's last bits depend on its batch
REWARD, PERPLEXITY = "completion_similarity", "perplexity_under_base"
KL, KL_REVERSED = "kl_policy_to_base_nats", "kl_base_to_policy_nats"
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
    prompt, forced = example["prompt"], example["forced"]

    settings = [f.relative_to(results / "policies") for f in results.glob("policies/*/kl=*")]
    values: dict[tuple[tuple[str, ...], str], list[float]] = defaultdict(list)  # one value a seed
    rewards: dict[str, float] = {}
    for folder in [Path("base"), Path("prompted"), *sorted(settings)[:policies]]:
        trained = len(folder.parts) > 1
        who: tuple[str, ...] = (folder.name, "", "")
        if trained:
            who = ("policy", folder.parts[0], folder.name[3:])
        for path in sorted(results.glob(f"completions/{folder}{'/seed=*' * trained}.csv")):
            rows = read_csv(path)
            counts = np.array([int(row["count"]) for row in rows])
            ids = [[int(token) for token in row["token_ids"].split()] for row in rows]
            whole = [base.encode(prompt) + own for own in ids]
            texts = [str(base.tokenizer.decode(own, skip_special_tokens=True)) for own in whole]
            if new := sorted(set(texts) - set(rewards)):
                vectors = encoder.encode(new, batch_size=256, normalize_embeddings=True)
                rewards.update(zip(new, (vectors @ concept).tolist(), strict=True))
            each = np.array([rewards[text] for text in texts])
            values[who, REWARD].append(counts @ each / counts.sum())
            if trained:
                policy = StoryModel(results / "policies" / folder / path.stem / "model")
                both = counts @ kls(policy, base, prompt, ids) / counts.sum()
                values[who, KL].append(both[0])
                values[who, KL_REVERSED].append(both[1])
        if who[0] == "prompted":  # conditioning costs −log p of what was conditioned on
            values[who, KL].append(-base.log_prob(prompt, base.encode(forced)))
        for path in sorted(results.glob(f"stories/{folder}/seed=*.jsonl")):
            if not path.name.endswith(".base.jsonl"):
                values[who, PERPLEXITY].append(base.perplexity(read_stories(path)))

    stated: dict[tuple[tuple[str, ...], str], float] = {}
    for row in read_csv(results / "tables/summary.csv"):
        who = (row["model"], row["variant"], row["kl_factor"])
        if row["metric"] in ALLOWED and (who, row["metric"]) in values:
            stated[who, row["metric"]] = float(row["mean"])
        elif row["metric"] in ALLOWED and row["model"] == "policy" and policies is None:
            sys.exit(f"{who} {row['metric']}: in summary.csv, but nothing to compute it from")
    wrong = 0
    print(f"{'model':28} {'metric':30} {'here':>10} {'summary':>10} {'difference':>11}")
    for (who, metric), seeds in values.items():
        here, there = float(np.mean(seeds)), stated.get((who, metric), math.nan)
        absolute, relative = ALLOWED[metric]
        agree = abs(here - there) <= absolute + relative * abs(there)  # false if there is none
        wrong += not agree
        line = f"{' '.join(filter(None, who)):28} {metric:30} {here:10.5f} {there:10.5f}"
        print(f"{line} {here - there:11.1e}{'' if agree else '  DISAGREES'}")
    return wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="results/<study>")
    parser.add_argument("--models", type=Path, required=True, help="resources/models")
    parser.add_argument("--policies", type=int, help="only the first N settings")
    parser.add_argument("--base", help="folder of the base model, where there are several")
    args = parser.parse_args()
    sys.exit(1 if main(args.results, args.models, args.policies, args.base) else 0)
