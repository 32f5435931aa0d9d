"""Generate evaluation stories with one model and measure them token by token, as JSON lines.

With --policy: stories of a policy, and its log probabilities of the base model's stories
(*.base.jsonl). Without: stories of the base model, and of the base model prompted with the concept, for
every seed.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

from tinycats import layout, program
from tinycats.files.tables import Row, read_lines, write_lines
from tinycats.stories.columns import FORGETTING_FIELDS, STORY_FIELDS

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base-model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--policy", type=Path, help="folder of a trained policy (its model/)")
    parser.add_argument("--base-stories", type=Path, help="base model's stories, same seed")
    parser.add_argument(
        "--prompts", type=program.json_object, required=True, help="JSON: group → prompts"
    )
    parser.add_argument(
        "--per-prompt", type=program.json_object, required=True, help="JSON: group → stories"
    )
    parser.add_argument("--new-tokens", type=int, default=250)
    parser.add_argument("--forced", default="", help="text that the base model is prompted with")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="stories file; for the base model, a folder"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args()
    if min(args.seeds) < 0 or args.new_tokens < 1:
        raise program.UserError("--seeds should be 0 or more and --new-tokens at least 1")

    from tinycats.compute.devices import choose_device, set_threads
    from tinycats.language_model.network import Network, network_with_onednn
    from tinycats.language_model.text import check_context, context_of
    from tinycats.models.folders import load_causal_lm
    from tinycats.policies.record import check_policy
    from tinycats.stories.storytelling import find_stories, requests, tell_stories

    set_threads(args.threads)
    device = choose_device(args.device)
    base_model, tokenizer = load_causal_lm(args.base_model, device)
    base = network_with_onednn(base_model)

    def stories(network: Network, forced: str, seed: int) -> list[Row]:
        asked = requests(tokenizer, args.prompts, args.per_prompt, forced, seed)
        longest = max(len(r.prompt_ids) for r in asked)
        check_context("evaluation.new_tokens", args.new_tokens, longest, context_of(base_model))
        return tell_stories(network, base, tokenizer, asked, args.new_tokens)

    if args.policy:
        if (
            args.policy.parent / layout.RUN.name
        ).exists():  # without it, any model folder is accepted
            check_policy(args.policy.parent, args.base_model)
        policy = network_with_onednn(load_causal_lm(args.policy, device)[0])
        write_lines(args.out, stories(policy, "", args.seeds[0]), STORY_FIELDS)
        theirs = list(read_lines(args.base_stories, STORY_FIELDS))
        found = find_stories(policy, theirs, tokenizer)
        write_lines(args.out.with_suffix(layout.FORGETTING.end), found, FORGETTING_FIELDS)
        return
    for seed in program.progress(args.seeds, len(args.seeds), "seeds"):
        for model, forced in ((layout.BASE, ""), (layout.PROMPTED, args.forced)):
            path = args.out / f"{replace(model, seed=seed).stem}{layout.STORIES.end}"
            write_lines(path, stories(base, forced, seed), STORY_FIELDS)


if __name__ == "__main__":
    program.run(main)
