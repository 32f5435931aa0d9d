"""Tabulate a study: means and 95 % intervals over seeds, differences, positions, trajectories.

By hand: PYTHONPATH=src python workflow/scripts/make_tables.py --story-scores results/default/scores/stories.csv
--set-scores results/default/scores/sets.csv
--stories results/default/stories/*/seed=*.jsonl results/default/stories/blog/kl=*/seed=*[0-9].jsonl
--completions results/default/completions/base.csv results/default/completions/blog/kl=*/seed=*.csv
--training results/default/policies/blog/kl=*/seed=*/training.csv
--top-completions results/default/policies/blog/kl=*/seed=*/top_completions.csv
--first-token results/default/completions/first_token.csv
--policies results/default/frontier/policies.csv --prompted results/default/frontier/prompted.csv
--concept-words '["cat", "cats"]' --run results/default/policies/blog/kl=0/seed=0/run.json --batch-size 1000 --out results/default/tables
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from tinycats import program
from tinycats.files.tables import write_table
from tinycats.policies.record import read_run
from tinycats.scores import scoring
from tinycats.settings import read_json
from tinycats.tables import decomposition, positions, steps
from tinycats.tables import summaries as tables
from tinycats.tables.columns import TABLES
from tinycats.tables.equal_kl import equal_kl

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    several: dict[str, Any] = {"type": Path, "nargs": "*", "default": []}
    parser.add_argument("--story-scores", type=Path, required=True, help="scores/stories.csv")
    parser.add_argument("--set-scores", type=Path, required=True, help="scores/sets.csv")
    parser.add_argument("--opening-sets", type=Path, help="scores/opening_sets.csv")
    parser.add_argument("--openings", type=Path, help="frontier/openings.csv")
    parser.add_argument(
        "--stories", **several, help="every stories/**/seed=*.jsonl except *.base.jsonl"
    )
    parser.add_argument(
        "--completions", **several, help="every completions/**.csv with sampled texts"
    )
    parser.add_argument("--training", **several, help="every policy's training.csv")
    parser.add_argument("--top-completions", **several, help="every policy's top_completions.csv")
    parser.add_argument(
        "--first-token", type=Path, help="first-token probabilities by model and seed"
    )
    parser.add_argument("--policies", type=Path, required=True, help="frontier/policies.csv")
    parser.add_argument("--prompted", type=Path, required=True, help="frontier/prompted.csv")
    parser.add_argument(
        "--concept-words", type=scoring.parse_words, required=True, help="JSON list of words"
    )
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        help="run.json of any policy, for the number of tokens that the reward covers",
    )
    parser.add_argument("--batch-size", type=int, required=True, help="samples in a training step")
    parser.add_argument(
        "--batch-size-of",
        type=read_json,
        default={},
        help="JSON object: the same of variants that set their own",
    )
    parser.add_argument(
        "--fewer-prompts", nargs="*", default=[], help="variants trained on some of the prompts"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    args = parser.parse_args()
    completion_tokens = read_run(args.run)["new_tokens"]
    if args.batch_size < 1:
        raise program.UserError(f"--batch-size is {args.batch_size}, should be at least 1")

    by_group = tables.score_values(args.story_scores, args.set_scores)
    if tables.TRAINING_GROUP not in by_group:
        raise program.UserError(
            f"{args.story_scores}: no stories of the prompt group {tables.TRAINING_GROUP!r}"
        )
    told = positions.read_positions(args.stories, args.concept_words, completion_tokens)
    for group, values in told.completion_kl.items():
        by_group[group] = tables.merge(by_group.get(group, {}), values)
    of_training = by_group[tables.TRAINING_GROUP]
    seeds = tables.seeds_of(of_training)
    of_training = tables.merge(of_training, tables.completion_values(args.completions, seeds))

    results = {
        "summary": tables.summary(of_training),
        "by_prompt_group": tables.by_prompt_group(
            by_group, tables.prompt_values(args.story_scores)
        ),
        "by_position": tables.by_position(told),
        "paired_differences": tables.paired_differences(of_training),
        "equal_kl": equal_kl(args.policies, args.prompted),
        "training": steps.training(args.training),
        "top_completions": steps.top_completions(
            args.top_completions, args.batch_size, args.batch_size_of
        ),
        "trajectories": steps.trajectories(
            *(args.training, args.completions, args.batch_size, args.batch_size_of),
            args.fewer_prompts,
        ),
        "decomposition": decomposition.table(args.story_scores, args.opening_sets, args.openings)
        if args.opening_sets and args.openings
        else [],
        "first_token": steps.first_token(args.first_token) if args.first_token else [],
    }
    for name, columns in TABLES.items():
        write_table(args.out / f"{name}.csv", results[name], columns)
        log.info("tables/%s.csv: %d rows", name, len(results[name]))


if __name__ == "__main__":
    program.run(main)
