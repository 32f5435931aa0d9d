"""Sample short completions of the training prompts from the base model and every policy, in one job.

Writes base.csv, prompted.csv, <variant>/kl=<k>/seed=<s>.csv, first_token.csv, log_probs.safetensors: the
log probability of every distinct completion under every model, for the best achievable reward (at most 64
policies, evenly spread over the study); and searched.csv: completions of high reward that were found by
search and drawn from no model. The reward is loaded once, and each distinct text is rewarded once.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinycats import layout, program
from tinycats.completions.columns import COMPLETIONS, FIRST_TOKEN, SEARCHED
from tinycats.completions.settings import CompletionsSettings
from tinycats.compute.settings import MachineSettings
from tinycats.files import atomic
from tinycats.files.tables import Row, write_table
from tinycats.layout import ModelId
from tinycats.progress import progress
from tinycats.reward.settings import RewardFiles
from tinycats.settings import add_flags, read_flags

if TYPE_CHECKING:
    from tinycats.completions.collector import Collector

log = logging.getLogger(__name__)


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument("--base-model", type=Path, required=True, help="folder of the base model")
    parser.add_argument(
        "--policies",
        type=Path,
        nargs="*",
        default=[],
        help="policies/<variant>/kl=<k>/seed=<s> folders",
    )
    parser.add_argument("--rewards", type=Path, help="folder of rewards shared between jobs")
    parser.add_argument("--out", type=Path, required=True, help="folder completions/")
    add_flags(parser, RewardFiles)
    add_flags(parser, CompletionsSettings, whole=True)
    add_flags(parser, MachineSettings)
    args = parser.parse_args()
    settings, machine = read_flags(args, CompletionsSettings), read_flags(args, MachineSettings)
    if settings.prompted_with is None:
        raise program.UserError("--prompted-with: missing; expected text such as ' a cat'")

    from tinycats.completions.collector import Collector, pool_of
    from tinycats.compute.devices import choose_device, set_threads
    from tinycats.models.folders import load_causal_lm
    from tinycats.policies.record import check_policy, read_run
    from tinycats.reward.loading import load_reward
    from tinycats.reward.memo import load_memo, save_memo
    from tinycats.reward.model import RewardModel

    set_threads(machine.threads)
    device = choose_device(machine.device)
    reward = RewardModel(load_reward(read_flags(args, RewardFiles), device))
    # the order in which they are named decides nothing
    policies = sorted(args.policies, key=lambda folder: ModelId.from_path(folder).order())
    for folder in policies:
        own = read_run(folder / layout.RUN.name).get("settings", {}).get("prompts", ())
        # a variant may train on the first prompts alone
        prompts = list(settings.prompts[: len(own) or None])
        expected = {"prompts": prompts, "num_tokens": settings.num_tokens}
        check_policy(folder, args.base_model, {**expected, **reward.reward.identity})
    known = load_memo(reward, args.rewards) if args.rewards else 0
    base, tokenizer = load_causal_lm(args.base_model, device)
    shape = settings.prompts, settings.num_tokens, settings.micro_batch
    collector = Collector(base, tokenizer, reward, *shape)

    collector.draw_base(settings.base_completions)
    log.info("base: %s", collector.last_drawn())
    prompted = collector.draw_prompted(settings.prompted_with, settings.policy_completions)
    if not prompted:
        log.info("%r is longer than a completion: it is not a rival", settings.prompted_with)
    for folder in progress(policies, len(policies), "policy", collector.last_drawn):
        who = ModelId.from_path(folder).columns()
        policy = load_causal_lm(folder / "model", device)[0]
        collector.draw_policy(who, policy, settings.policy_completions)
        del policy
    pool = pool_of(len(policies))
    members = [0, *(1 + i for i in pool)]
    found = collector.search(members, settings.search_rewards)
    if args.rewards:
        save_memo(reward, args.rewards, known)

    write_tables(collector, prompted, args.out)
    write_table(args.out / "searched.csv", collector.searched_rows(found, members), SEARCHED)

    # a second pass over the pool's models, since all completions have to be drawn first
    def models() -> Iterator[Any]:
        yield base
        for i in pool:
            yield load_causal_lm(policies[i] / "model", device)[0]

    tensors, metadata = collector.log_probs(models(), members, found)
    atomic.write_tensors(args.out / "log_probs.safetensors", tensors, metadata)


def write_tables(collector: Collector, prompted: list[Row], out: Path) -> None:
    """Write prompted.csv, first_token.csv and the table of every model."""
    write_table(out / "prompted.csv", prompted, COMPLETIONS)
    for who, rows in collector.tables:
        name = f"{ModelId.from_row(who).stem}{layout.COMPLETIONS.end}"
        write_table(out / name, rows, COMPLETIONS)
    write_table(out / "first_token.csv", collector.first_tokens, FIRST_TOKEN)


if __name__ == "__main__":
    program.run(main)
