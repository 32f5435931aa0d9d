"""Stories that begin with rewarded tokens from one distribution and are continued by the base model.

For one seed: those of every policy given, of the optimal policy and of best of n at its KL, and of the
optimal policy at the KL of the prompted base. By hand: PYTHONPATH=src python workflow/scripts/tell_openings.py
--base-model resources/models/nano --log-probs results/default/completions/log_probs.safetensors
--searched results/default/completions/searched.csv --openings results/default/frontier/openings.csv --policy-stories results/default/stories/blog/kl=*/seed=0.jsonl
--prompts '{"training": ["Once upon a time there was"]}' --seed 0 --out results/default/stories
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinycats import layout, program
from tinycats.compute.settings import MachineSettings
from tinycats.files.tables import read_lines, read_table, write_lines
from tinycats.frontier import openings as frontier
from tinycats.frontier.columns import OPENINGS
from tinycats.layout import ModelId
from tinycats.settings import add_flags, read_flags
from tinycats.stories.columns import STORY_FIELDS
from tinycats.stories.settings import OpeningStoriesSettings

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument("--base-model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--log-probs", type=Path, required=True, help="log_probs.safetensors")
    parser.add_argument("--searched", type=Path, required=True, help="completions/searched.csv")
    parser.add_argument("--openings", type=Path, required=True, help="frontier/openings.csv")
    parser.add_argument(
        "--policy-stories",
        type=Path,
        nargs="+",
        required=True,
        help="stories/<variant>/kl=*/seed=<seed>.jsonl",
    )
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder stories/")
    add_flags(parser, OpeningStoriesSettings, whole=True)
    add_flags(parser, MachineSettings)
    args = parser.parse_args()
    settings, machine = read_flags(args, OpeningStoriesSettings), read_flags(args, MachineSettings)

    from tinycats.compute.devices import choose_device, set_threads
    from tinycats.language_model.network import network_with_onednn
    from tinycats.language_model.text import check_context, context_of
    from tinycats.models.folders import load_causal_lm
    from tinycats.stories.openings import Opening, continue_openings, opening_of
    from tinycats.stories.storytelling import requests

    set_threads(machine.threads)
    base_model, tokenizer = load_causal_lm(args.base_model, choose_device(machine.device))
    trained = settings.prompts["training"]
    asked = requests(tokenizer, {"training": trained}, {"training": settings.count}, "", args.seed)
    prompt = max(len(request.prompt_ids) for request in asked)
    check_context("evaluation.new_tokens", settings.new_tokens, prompt, context_of(base_model))
    tokens = settings.num_tokens - prompt
    # the random numbers that the first tokens of any story of this seed, prompt and index are drawn at
    uniforms = [np.random.default_rng(request.sample_seed).random(tokens) for request in asked]

    chosen: dict[ModelId, list[Opening]] = {}
    for path in args.policy_stories:
        who = ModelId.from_path(path)
        if not who.is_policy or who.seed != args.seed:
            raise program.UserError(
                f"--policy-stories {path}: expected a policy of seed {args.seed}"
            )
        of_seed = {row["sample_seed"]: row for row in read_lines(path, STORY_FIELDS)}
        try:
            stories = [of_seed[request.sample_seed] for request in asked]
        except KeyError:
            raise program.UserError(
                f"{path}: should hold {settings.count} stories of each training prompt and seed"
                f" {args.seed}"
            ) from None
        chosen[replace(who, kind="opening_only")] = [opening_of(row, tokens) for row in stories]
    supports = frontier.read_supports(args.log_probs, args.searched)
    rows = {ModelId.from_row(row): row for row in read_table(args.openings, OPENINGS)}
    beside = [replace(who, kind=kind) for who in list(chosen) for kind in ("optimal", "best_of_n")]
    of_prompted = replace(layout.OPTIMAL_PROMPTED, seed=args.seed)
    for who in [*beside, of_prompted]:
        key = who if who.of_policy else who.without_seed
        if key not in rows and who == of_prompted:  # a prompted text longer than a completion
            write_lines(args.out / f"{who.stem}{layout.STORIES.end}", [], STORY_FIELDS)
            continue
        if key not in rows:
            raise program.UserError(f"{args.openings}: has no row of {key.stem}")
        openings = {
            text: frontier.distribution(*support, rows[key]) for text, support in supports.items()
        }
        both = zip(asked, uniforms, strict=True)
        chosen[who] = [openings[request.prompt].draw(numbers) for request, numbers in both]

    told = continue_openings(
        network_with_onednn(base_model),
        tokenizer,
        asked * len(chosen),
        [opening for own in chosen.values() for opening in own],
        settings.new_tokens,
    )
    for place, who in enumerate(chosen):
        own = told[place * len(asked) : (place + 1) * len(asked)]
        write_lines(args.out / f"{who.stem}{layout.STORIES.end}", own, STORY_FIELDS)
    log.info("%d stories of %d models", len(told), len(chosen))


if __name__ == "__main__":
    program.run(main)
