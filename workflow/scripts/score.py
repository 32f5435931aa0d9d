"""Score the stories of a study: reward, mentions, perplexity, repetition, diversity.

One job scores every model and seed, so that the reward is loaded once. By hand:
PYTHONPATH=src python workflow/scripts/score.py --base-stories results/default/stories/base/seed=*.jsonl
--prompted-stories results/default/stories/prompted/seed=*.jsonl
--policy-stories results/default/stories/blog/kl=*/seed=*[0-9].jsonl
--forgetting results/default/stories/blog/kl=*/seed=*.base.jsonl
--encoder resources/models/sentence-transformers--all-MiniLM-L6-v2 --reference results/default/reference/cat.safetensors
--tokenizer resources/models/nano --concept-words '["cat", "cats"]' --run results/default/policies/blog/kl=0/seed=0/run.json
--out results/default/scores
"""

from __future__ import annotations

import argparse
import functools
import logging
from pathlib import Path
from typing import Any

from tinycats import program
from tinycats.files.tables import write_table
from tinycats.policies.record import read_run
from tinycats.reward.settings import RewardFiles
from tinycats.scores import scoring
from tinycats.scores.columns import OPENING_SETS, SETS, STORIES
from tinycats.scores.openings import opening_sets
from tinycats.settings import add_flags, read_flags

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    several: dict[str, Any] = {"type": Path, "nargs": "*", "default": []}
    parser.add_argument("--base-stories", **several, help="stories/base/seed=*.jsonl")
    parser.add_argument("--prompted-stories", **several, help="stories/prompted/seed=*.jsonl")
    parser.add_argument("--policy-stories", **several, help="stories/<variant>/kl=*/seed=*.jsonl")
    parser.add_argument("--opening-stories", **several, help="stories/optimal/**.jsonl and so on")
    parser.add_argument("--forgetting", **several, help="stories/<variant>/kl=*/seed=*.base.jsonl")
    add_flags(parser, RewardFiles)
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the base model")
    parser.add_argument(
        "--concept-words",
        type=scoring.parse_words,
        required=True,
        help="JSON list of words that count as mentions",
    )
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        help="run.json of any policy, for the number of tokens that the reward covers",
    )
    parser.add_argument("--device", default="auto", help="torch device of the encoder")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all available)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the three tables")
    args = parser.parse_args()
    completion_tokens = read_run(args.run)["new_tokens"]

    from tinycats.compute.devices import choose_device, set_threads
    from tinycats.language_model.text import encode_prompt, rewarded_text
    from tinycats.models.folders import load_tokenizer, verify_folder
    from tinycats.reward.loading import load_reward
    from tinycats.reward.model import RewardModel

    set_threads(args.threads)
    reward = RewardModel(load_reward(read_flags(args, RewardFiles), choose_device(args.device)))
    verify_folder(args.tokenizer)
    tokenizer = load_tokenizer(args.tokenizer)

    @functools.cache
    def prompt_ids(prompt: str) -> list[int]:
        return encode_prompt(tokenizer, prompt)

    def complete(prompt: str, token_ids: list[int]) -> str:
        return rewarded_text(tokenizer, prompt_ids(prompt), token_ids)

    rows, sets = scoring.score(
        args.base_stories,
        args.prompted_stories,
        args.policy_stories,
        args.forgetting,
        args.concept_words,
        completion_tokens,
        lambda texts: reward(texts).numpy(),
        complete,
        args.opening_stories,
    )
    told = [*args.base_stories, *args.prompted_stories, *args.policy_stories]
    compared = opening_sets([*told, *args.opening_stories])
    write_table(args.out / "stories.csv", rows, STORIES)
    write_table(args.out / "sets.csv", sets, SETS)
    write_table(args.out / "opening_sets.csv", compared, OPENING_SETS)
    log.info("%d stories in %d sets scored", len(rows), len(sets))


if __name__ == "__main__":
    program.run(main)
