"""Generate evaluation stories with one model and measure them token by token, as JSON lines.

With --policy: stories of a policy, and its log probabilities of the base model's stories
(*.base.jsonl). Without: stories of the base model, and of the base model prompted with the concept.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from tinycats import layout, program
from tinycats.compute.settings import MachineSettings
from tinycats.files.tables import Row, read_lines, write_lines
from tinycats.settings import add_flags, read_flags
from tinycats.stories.columns import FORGETTING_FIELDS, STORY_FIELDS
from tinycats.stories.settings import BaseStoriesSettings

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument("--base-model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--policy", type=Path, help="folder of a trained policy (its model/)")
    parser.add_argument("--base-stories", type=Path, help="base model's stories, same seed")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="stories file; for the base model, a folder"
    )
    add_flags(parser, BaseStoriesSettings, whole=True)
    add_flags(parser, MachineSettings)
    args = parser.parse_args()
    if args.seed < 0:
        raise program.UserError(f"--seed: {args.seed} found, expected a whole number of at least 0")
    settings, machine = read_flags(args, BaseStoriesSettings), read_flags(args, MachineSettings)

    from tinycats.compute.devices import choose_device, set_threads
    from tinycats.language_model.network import Network, network_with_onednn
    from tinycats.language_model.text import check_context, context_of
    from tinycats.models.folders import load_causal_lm
    from tinycats.policies.record import check_policy
    from tinycats.stories.storytelling import find_stories, requests, tell_stories

    set_threads(machine.threads)
    device = choose_device(machine.device)
    base_model, tokenizer = load_causal_lm(args.base_model, device)
    base = network_with_onednn(base_model)

    def stories(network: Network, forced: str) -> list[Row]:
        asked = requests(tokenizer, settings.prompts, settings.per_prompt(), forced, args.seed)
        longest = max(len(r.prompt_ids) for r in asked)
        check_context("evaluation.new_tokens", settings.new_tokens, longest, context_of(base_model))
        return tell_stories(network, base, tokenizer, asked, settings.new_tokens)

    if args.policy:
        if (
            args.policy.parent / layout.RUN.name
        ).exists():  # without it, any model folder is accepted
            check_policy(args.policy.parent, args.base_model)
        policy = network_with_onednn(load_causal_lm(args.policy, device)[0])
        write_lines(args.out, stories(policy, ""), STORY_FIELDS)
        theirs = list(read_lines(args.base_stories, STORY_FIELDS))
        found = find_stories(policy, theirs, tokenizer)
        write_lines(args.out.with_suffix(layout.FORGETTING.end), found, FORGETTING_FIELDS)
        return
    for model, forced in ((layout.BASE, ""), (layout.PROMPTED, settings.prompted_with or "")):
        path = args.out / f"{replace(model, seed=args.seed).stem}{layout.STORIES.end}"
        write_lines(path, stories(base, forced), STORY_FIELDS)


if __name__ == "__main__":
    program.run(main)
