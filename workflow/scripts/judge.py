"""Score completions and stories of a study by its judges, rewards that are not trained on.

By hand: PYTHONPATH=src python workflow/scripts/judge.py
--completions results/default/completions/base.csv results/default/completions/blog/kl=*/seed=*.csv
--stories results/default/stories/base/seed=*.jsonl results/default/stories/blog/kl=*/seed=*[0-9].jsonl
--story-scores results/default/scores/stories.csv --tokenizer resources/models/nano
--judges '[{"name": "letters", "python": "config/rewards/length.py:letters"}]'
--out results/default/scores/judges.csv
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinycats import program, settings
from tinycats.files.tables import write_table
from tinycats.reward.settings import RewardFiles
from tinycats.scores import judging
from tinycats.scores.columns import JUDGES

if TYPE_CHECKING:
    import numpy as np


def parse_judges(text: str) -> dict[str, RewardFiles]:
    """Name → files of each judge, from a JSON list.

    Raises:
        UserError: it is something else.
    """
    found = settings.read_json(text)
    if not isinstance(found, list) or not all(isinstance(one, dict) and "name" in one for one in found):  # fmt: skip
        raise program.UserError(
            f"--judges: {settings.shown_in_line(found)} found, expected a list of objects with a name"
        )
    judges = {}
    for number, one in enumerate(found):
        files = {key: value for key, value in one.items() if key != "name"}
        judges[str(one["name"])] = settings.check(RewardFiles, files, f"--judges: {number}")
    return judges


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    several: dict[str, Any] = {"type": Path, "nargs": "*", "default": []}
    parser.add_argument("--completions", **several, help="completions/**.csv with sampled texts")
    parser.add_argument("--stories", **several, help="stories/**/seed=*.jsonl except *.base.jsonl")
    parser.add_argument("--story-scores", type=Path, required=True, help="scores/stories.csv")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the base model")
    parser.add_argument(
        "--judges",
        type=parse_judges,
        required=True,
        help="JSON list: of each its name, and a reward's flags without --",
    )
    parser.add_argument("--rewards", type=Path, help="folder of rewards shared between jobs")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, or a torch device such as cuda"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all available)")
    parser.add_argument("--out", type=Path, required=True, help="scores/judges.csv")
    args = parser.parse_args()

    from tinycats.compute.devices import choose_device, set_threads
    from tinycats.language_model.text import encode_prompt, rewarded_text
    from tinycats.models.folders import load_tokenizer
    from tinycats.reward.loading import load_reward
    from tinycats.reward.memo import load_memo, save_memo
    from tinycats.reward.model import RewardModel

    set_threads(args.threads)
    device = choose_device(args.device)
    tokenizer = load_tokenizer(args.tokenizer)

    @functools.cache
    def prompt_ids(prompt: str) -> list[int]:
        return encode_prompt(tokenizer, prompt)

    def complete(prompt: str, ids: list[int]) -> str:
        return rewarded_text(tokenizer, prompt_ids(prompt), ids)

    def load(files: RewardFiles) -> judging.Rewards:
        model = RewardModel(load_reward(files, device))
        known = load_memo(model, args.rewards) if args.rewards else 0

        def score(texts: list[str]) -> np.ndarray:
            found = model(texts).numpy()
            if args.rewards:
                save_memo(model, args.rewards, known)
            return found

        return score

    texts = judging.completions(args.completions, complete)
    texts |= judging.stories(args.stories, args.story_scores)
    judges = {name: functools.partial(load, files) for name, files in args.judges.items()}
    rows = judging.judge(texts, judges)
    write_table(args.out, rows, JUDGES)
    program.log.info("%s: %d rows", args.out, len(rows))


if __name__ == "__main__":
    program.run(main)
