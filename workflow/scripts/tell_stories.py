"""Tell evaluation stories with one model and measure them token by token, as JSON lines.

With --policy: stories of a policy, and how it finds the base's stories (*.base.jsonl). Without: the
stories of the base model and of the base made to begin with the concept, for every seed.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from tinycats import program
from tinycats.compute.settings import MachineSettings
from tinycats.files import tables as files
from tinycats.settings import add_flags, read_flags
from tinycats.stories.settings import BaseStoriesSettings

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base-model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--policy", type=Path, help="folder of a trained policy (its model/)")
    parser.add_argument("--base-stories", type=Path, help="the base's stories of the same seed")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="stories file, or folder for the base"
    )
    add_flags(parser, BaseStoriesSettings, whole=True)
    add_flags(parser, MachineSettings)
    args = parser.parse_args()
    settings, machine = read_flags(args, BaseStoriesSettings), read_flags(args, MachineSettings)

    from tinycats.compute.devices import choose_device, set_threads
    from tinycats.language_model.network import Network
    from tinycats.models.folders import load_causal_lm
    from tinycats.policies.record import check_policy
    from tinycats.stories.storytelling import find_stories, requests, tell_stories

    set_threads(machine.threads)
    device = choose_device(machine.device)
    base_model, tokenizer = load_causal_lm(args.base_model, device)
    base = Network(base_model)

    def stories(network: Network, forced: str, seed: int) -> list[files.Row]:
        asked = requests(tokenizer, settings.prompts, settings.per_prompt(), forced, seed)
        longest = max(len(r.prompt_ids) for r in asked) + settings.new_tokens
        context = getattr(base_model.config, "max_position_embeddings", longest)
        if longest > context:
            raise program.UserError(
                f"evaluation.new_tokens: {settings.new_tokens} and the longest prompt make {longest}"
                f" tokens, more than the model's context of {context}"
            )
        return tell_stories(network, base, tokenizer, asked, settings.new_tokens)

    if args.policy:
        if (args.policy.parent / "run.json").exists():  # by hand, any model may tell stories
            check_policy(args.policy.parent, args.base_model)
        policy = Network(load_causal_lm(args.policy, device)[0])
        files.write_lines(args.out, stories(policy, "", args.seeds[0]), files.STORY_FIELDS)
        theirs = list(files.read_lines(args.base_stories, files.STORY_FIELDS))
        found = find_stories(policy, theirs, tokenizer)
        files.write_lines(args.out.with_suffix(".base.jsonl"), found, files.FORGETTING_FIELDS)
        return
    for seed in program.progress(args.seeds, len(args.seeds), "seeds"):
        for name, forced in (("base", ""), ("prompted", settings.prompted_with or "")):
            path = args.out / name / f"seed={seed}.jsonl"
            files.write_lines(path, stories(base, forced, seed), files.STORY_FIELDS)


if __name__ == "__main__":
    program.run(main)
