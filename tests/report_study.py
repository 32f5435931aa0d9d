"""A small study's files, written through the library's own writers, to render reports from."""

from __future__ import annotations

import json
import math
import random
import re
import shutil
from pathlib import Path

import yaml

from tinycats.columns import STUDY_TABLES
from tinycats.files.atomic import write_sealed, write_text
from tinycats.files.tables import read_table, write_lines, write_table
from tinycats.scores.columns import METRICS
from tinycats.stories.columns import STORY_FIELDS

WORDS = re.findall(
    r"\w+",
    "the a small big happy cat kitten bird tree garden day friend ball rain sun river fish little"
    " red blue played found looked smiled jumped said asked gave saw went home with and then who"
    " was very in under over near mother girl boy dog house",
)
HOSTILE = "<script>window.broken = true</script><img src=x onerror='window.broken = true'>"
FACTORS = ("0", "1500", "6000")
PROMPTS = {
    "training": ["Once upon a time there was"],
    "other_subjects": ["This is a story about a bird.", "There are no cats in this story."],
}
SVG = """<?xml version="1.0"?><!DOCTYPE svg>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="600pt"
 height="300pt" viewBox="0 0 600 300"><metadata>secret</metadata>
<defs><style type="text/css">*{{stroke-linejoin: round}}</style>
<clipPath id="clip"><rect width="600" height="300"/></clipPath><circle id="dot" r="4"/></defs>
<g clip-path="url(#clip)"><use xlink:href="#dot" x="20" y="40"/>
<path d="M40 260 L560 {height}" style="stroke: #1a1a1a; fill: none"/>
<text x="50" y="30" style="fill: #1A1A1A; font: 14px sans-serif">{name}</text></g></svg>
"""


def _interval(mean: float, half: float = 0.02) -> dict[str, object]:
    each = f"{mean - half:.6g} {mean + half:.6g}"
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": 2, "each": each}


def _who(model: str, factor: str) -> dict[str, str]:
    variant = "blog" if model == "policy" else ""
    return {"model": model, "variant": variant, "kl_factor": factor}


def _story(rng: random.Random, group: str, prompt: str, model: str, tokens: int, tie: float):
    forced = " a cat" if model == "prompted" else ""
    pieces = [" a", " cat"] if forced else []
    while len(pieces) < tokens - 1:
        word = rng.choice(WORDS)
        pieces += [" cat" if model == "policy" and rng.random() < 0.1 else f" {word}"]
        if rng.random() < 0.08:
            pieces += [".", "\n\n" if rng.random() < 0.2 else " Then"]
    pieces = pieces[: tokens - 1]
    reference = [-rng.expovariate(0.5) for _ in pieces]
    policy = [p + (rng.gauss(0, 1) / tie if model == "policy" else 0) for p in reference]
    policy = [min(p, -0.001) for p in policy]
    return {
        "prompt_group": group,
        "prompt": prompt,
        "forced": forced,
        "text": "".join(pieces),
        "token_ids": [1, *[2 for _ in pieces]],
        "tokens": [*pieces, "<|endoftext|>"],
        "log_prob_policy": [*policy, -0.5],
        "log_prob_base": [*reference, -0.5],
        "kl_policy_to_base_nats": [0.1] * (len(pieces) + 1),
        "kl_base_to_policy_nats": [0.1] * (len(pieces) + 1),
        "ended": True,
        "sample_seed": 7,
    }


def _figure(folder: Path, name: str, section: str, order: int, factor: str | None, source: str):
    write_sealed(folder / f"{name}.svg", SVG.format(name=name, height=20 * (order % 12)))
    about = {
        "title": f"Figure {name}",
        "finding": f"The finding of {name} is 3 < 4.",
        "alt": f"A line that rises to {order}, drawn for {name}",
        "source": [source],
        "kl_factor": factor,
        "order": order,
        "section": section,
        "variant": None,
    }
    write_sealed(folder / f"{name}.json", json.dumps(about))


def make_study(
    root: Path,
    *,
    seeds: int = 2,
    per_training_prompt: int = 6,
    per_other_prompt: int = 2,
    tokens: int = 40,
) -> tuple[Path, Path]:
    """Write results/small and resources/models below ``root``; returns both folders.

    The first story of the base holds markup; the second KL factor has a figure of its own.
    """
    rng = random.Random(0)
    study, models = root / "results" / "small", root / "resources" / "models"
    config = {
        "study": "small",
        "base_model": "nano",
        "reward_encoder": "sentence-transformers/all-MiniLM-L6-v2",
        "concept": "cat",
        "concept_words": ["cat", "cats", "kitten", "cat's"],
        "training": {
            "prompts": PROMPTS["training"],
            "num_tokens": 10,
            "kl_factors": [0, 1500, 6000],
            "seeds": list(range(seeds)),
        },
        "variants": {"blog": {"advantage": "reward", "kl": "base_to_policy"}},
        "evaluation": {"prompts": PROMPTS, "prompted_with": " a cat", "new_tokens": tokens},
    }
    write_text(study / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    who = [("base", ""), ("prompted", ""), *(("policy", factor) for factor in FACTORS)]
    scores = []
    for model, factor in who:
        for seed in range(seeds):
            lines = []
            for group, prompts in PROMPTS.items():
                count = per_training_prompt if group == "training" else per_other_prompt
                for prompt in prompts:
                    for _ in range(count):
                        tie = 1 + float(factor or 0) / 2000
                        lines.append(_story(rng, group, prompt, model, tokens, tie))
            if model == "base" and seed == 0:
                lines[0]["tokens"][0] = HOSTILE
                lines[0]["text"] = "".join(lines[0]["tokens"][:-1])
            folder = study / "stories" / (f"blog/kl={factor}" if factor else model)
            write_lines(folder / f"seed={seed}.jsonl", lines, STORY_FIELDS)
            for story, line in enumerate(lines):
                words = line["text"].split()
                mentions = sum(word.strip(".") in ("cat", "kitten") for word in words)
                scores.append(
                    {
                        **_who(model, factor),
                        "seed": seed,
                        "prompt_group": line["prompt_group"],
                        "prompt": line["prompt"],
                        "story": story,
                        "completion_reward": rng.random(),
                        "story_reward": rng.random(),
                        "mentions_concept": int(mentions > 0),
                        "mentions_per_100_words": 100 * mentions / len(words),
                        "perplexity_under_base": math.exp(
                            -sum(line["log_prob_base"]) / len(line["tokens"])
                        ),
                        "base_perplexity_under_policy": 4 + rng.random(),
                        "line_breaks": line["text"].count("\n"),
                        "ended": 1,
                        "distinct_2": rng.random(),
                        "repeated_4_grams": rng.random() / 10,
                        "words": len(words),
                        "tokens": len(line["tokens"]),
                    }
                )
    write_table(study / "scores/stories.csv", scores, STUDY_TABLES["scores/stories.csv"])
    _write_tables(study, who)
    _write_rest(study, models, seeds)
    return study, models


def add_variant(study: Path, name: str) -> None:
    """A second variant: copies of the first one's runs, stories and tables, and a figure of each."""
    config = yaml.safe_load((study / "config.yaml").read_text(encoding="utf-8"))
    config["variants"][name] = {"advantage": "mean", "kl": "base_to_policy"}
    write_text(study / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    for stage in ("policies", "stories"):
        shutil.copytree(study / stage / "blog", study / stage / name)
    for table in ("scores/stories.csv", "tables/summary.csv", "tables/top_completions.csv"):
        rows = read_table(study / table, STUDY_TABLES[table])
        rows += [{**row, "variant": name} for row in rows if row["variant"] == "blog"]
        write_table(study / table, rows, STUDY_TABLES[table])
    for variant, folder in (("blog", study / "figures"), (name, study / "figures" / name)):
        for figure in ("what_broke", "training_metrics_6000"):
            write_sealed(folder / f"{figure}.svg", SVG.format(name=variant, height=30))
            about = json.loads((study / f"figures/{figure}.json").read_text(encoding="utf-8"))
            about |= {"finding": f"About {variant}.", "variant": variant}
            write_sealed(folder / f"{figure}.json", json.dumps(about))


def _write_tables(study: Path, who: list[tuple[str, str]]) -> None:
    metrics = [m for m in METRICS if m != "vendi_score"]
    summary = [
        {
            **_who(model, factor),
            "kl_coefficient_per_nat": float(factor) / 50257 if factor else "",
            "metric": metric,
            **_interval(0.1 + 0.1 * place + 0.01 * number),
        }
        for place, (model, factor) in enumerate(who)
        for number, metric in enumerate(metrics)
    ]
    write_table(study / "tables/summary.csv", summary, STUDY_TABLES["tables/summary.csv"])
    groups = [
        {
            **_who(model, factor),
            "prompt_group": group,
            "prompt": prompt,
            "metric": "mentions_concept",
            **_interval(0.15 * place + 0.1),
        }
        for place, (model, factor) in enumerate(who)
        for group in PROMPTS
        for prompt in ("", *(PROMPTS[group] if model != "prompted" else ()))
    ]
    write_table(
        study / "tables/by_prompt_group.csv", groups, STUDY_TABLES["tables/by_prompt_group.csv"]
    )
    verdicts = ("better", "worse", "undecided", "higher", "lower")
    paired = [
        {
            "comparison": f"{a} − {b}",
            "minuend": a,
            "subtrahend": b,
            "variant": "blog",
            "subtrahend_variant": "" if b in ("base", "prompted") else "blog",
            "metric": metric,
            **_interval(0.1 - 0.02 * number),
            "p_value": 0.001,
            "p_holm": 0.01,
            "verdict": verdicts[number % 5],
        }
        for a, b in (("0", "base"), ("6000", "base"), ("6000", "0"), ("6000", "prompted"))
        for number, metric in enumerate(metrics)
    ]
    path = study / "tables/paired_differences.csv"
    write_table(path, paired, STUDY_TABLES["tables/paired_differences.csv"])
    verdict = {"best_of_n": "worse", "prompted": "better"}
    equal = [
        {
            "variant": "blog",
            "kl_factor": factor,
            "rival": rival,
            "rival_variant": "",
            "kl_policy_to_base_nats": 2.5 if factor else 5.5,
            "reward": 0.4,
            "rival_reward": 0.4 - difference,
            "share_of_attainable_gain": 0.71,
            "rival_share": 0.71 - difference / 0.35,
            "regret_nats": 0.5,
            "rival_regret_nats": 0.5 + difference / 0.1,
            **_interval(difference),
            "p_value": 0.001,
            "p_holm": 0.01,
            "verdict": verdict[rival],
        }
        for factor in (*FACTORS, "")
        for rival, difference in (("best_of_n", -0.03), ("prompted", 0.05))
        if factor or rival == "prompted"
    ]
    write_table(study / "tables/equal_kl.csv", equal, STUDY_TABLES["tables/equal_kl.csv"])
    training = [
        {
            "variant": "blog",
            "kl_factor": factor,
            "step": step,
            "metric": "reward_mean",
            **_interval(0.1),
        }
        for factor in FACTORS
        for step in range(1, 101)
    ]
    write_table(study / "tables/training.csv", training, STUDY_TABLES["tables/training.csv"])
    most = [
        {
            "variant": "blog",
            "kl_factor": factor,
            "seed": seed,
            "step": step,
            "prompt": PROMPTS["training"][0],
            "text": f"=1+1 {step}" if place else f" a cat {factor} {seed} {step}",
            "share": (step / 8) / (place + 1),
            "reward": 0.1 * step,
        }
        for factor in FACTORS
        for seed in (0, 1)
        for step in range(1, 6)
        for place in range(2)
    ]
    path = study / "tables/top_completions.csv"
    write_table(path, most, STUDY_TABLES["tables/top_completions.csv"])
    policies = [
        {
            "variant": "blog",
            "kl_factor": factor,
            "seed": seed,
            "reward": 0.4 + 0.01 * seed,
            "kl_policy_to_base_nats": 2.5,
            "kl_base_to_policy_nats": 1.5,
            "limit": 0.5,
            "limit_low": 0.49,
            "limit_high": 0.51,
            "limit_certified": 0.48,
            "gap": 0.1 - 0.01 * seed,
            "share_of_attainable_gain": 0.7 + 0.02 * seed,
            "share_low": 0.6,
            "share_high": 0.9,
            "base_reward": 0.15,
            "beta": 0.1,
            "regret_nats": 0.5,
            "regret_low": 0.4,
            "regret_high": 0.6,
            "best_of": 16,
            "best_of_n_reward": 0.3,
            "best_of_n_error": 0.01,
            "prompted_share": 0.5,
            "prompted_reward": 0.35,
            "prompted_error": 0.01,
        }
        for factor in FACTORS
        for seed in (0, 1)
    ]
    write_table(study / "frontier/policies.csv", policies, STUDY_TABLES["frontier/policies.csv"])


def _write_rest(study: Path, models: Path, seeds: int) -> None:
    figures = study / "figures"
    _figure(figures, "frontier", "question", 10, None, "frontier/policies.csv")
    for place, factor in enumerate(FACTORS):
        name = f"training_metrics_{factor}"
        _figure(figures, name, "training", 100 + place, factor, "tables/training.csv")
    _figure(figures, "what_broke", "broke", 400, None, "tables/summary.csv")
    _figure(figures, "stories", "scores", 310, None, "stories/base/seed=0.jsonl")
    for factor in FACTORS:
        for seed in range(seeds):
            about = {
                "parameters": {"kl_factor": float(factor), "seed": seed},
                "versions": {"torch": "2.13.0", "python": "3.11.2"},
                "device": "cpu",
                "commit": "0123456789abcdef",
                "base_model_sha256": "ab" * 32,
            }
            path = study / f"policies/blog/kl={factor}/seed={seed}/run.json"
            write_sealed(path, json.dumps(about))
    manifest = {
        "source": "embedded",
        "licence": "MIT",
        "files": {"model.safetensors": {"sha256": "ab" * 32, "bytes": 12}},
    }
    for name in ("nano", "sentence-transformers--all-MiniLM-L6-v2"):
        write_text(models / name / "manifest.json", json.dumps(manifest))
    line = {"s": 12.5, "h:m:s": "0:00:12", "max_rss": 800.5}
    for stage in ("policies/kl=0,seed=0", "policies/kl=0,seed=1", "score"):
        write_text(study / "benchmarks" / f"{stage}.jsonl", json.dumps(line) + "\n")
