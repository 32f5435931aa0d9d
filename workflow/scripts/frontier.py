"""Estimate the best achievable reward at each KL, best-of-n, and each policy's gap.

By hand: PYTHONPATH=src python workflow/scripts/frontier.py --log-probs results/default/completions/log_probs.safetensors
--searched results/default/completions/searched.csv --base results/default/completions/base.csv --prompted results/default/completions/prompted.csv
--prompted-with " a cat" --out results/default/frontier
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program
from tinycats.completions.columns import COMPLETIONS as COLUMNS
from tinycats.files.tables import read_table, write_table
from tinycats.frontier import best_of_n, rivals
from tinycats.frontier import samples as reading
from tinycats.frontier.columns import TABLES
from tinycats.frontier.limit import Mixture, limit_rows
from tinycats.frontier.openings import Support, opening_rows
from tinycats.frontier.policies import AgainstLimit, policy_rows
from tinycats.frontier.settings import FrontierSettings
from tinycats.layout import COMPLETIONS, ModelId
from tinycats.settings import add_flags, read_flags


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument("--log-probs", type=Path, required=True, help="log_probs.safetensors")
    parser.add_argument("--searched", type=Path, help="searched.csv; default: nothing was searched")
    parser.add_argument(
        "--base",
        type=Path,
        required=True,
        help="base.csv; the policies' tables are beside it: <variant>/kl=<k>/seed=<s>.csv",
    )
    parser.add_argument("--prompted", type=Path, required=True, help="prompted.csv")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    add_flags(parser, FrontierSettings, whole=True)
    args = parser.parse_args()
    if args.seed < 0:
        raise program.UserError(f"--seed is {args.seed}, should be at least 0")
    settings = read_flags(args, FrontierSettings)
    if settings.prompted_with is None:
        raise program.UserError("--prompted-with: missing; expected text such as ' a cat'")

    samples = reading.read_samples(args.log_probs, args.searched)
    tables = [args.base]
    for row in [*samples.models[1:], *samples.others]:
        name = f"{ModelId.from_row(row).stem}{COMPLETIONS.end}"
        tables.append(args.base.parent / name)
    drawn = [reading.read_drawn(path) for path in tables]
    for index, (own, path) in enumerate(zip(drawn, tables, strict=True)):
        if index < len(samples.models):
            reading.check_drawn(samples, index, own, path)
    # a forced text that is longer than a completion is no rival: its table is empty
    prompted = reading.read_drawn(args.prompted) if read_table(args.prompted, COLUMNS) else None

    policies_kl = [own.mean(own.kl_policy_to_base) for own in drawn[1:]]
    base, again = Mixture.of(samples), (settings.bootstrap_samples, args.seed)
    program.log.info(
        "%d completions seen, with %.1f %% of the base's probability; %d stand for the rest",
        sum(len(own.mass) for own in base.prompts),
        100 * sum(own.mass.sum() for own in base.prompts) / len(base.prompts),
        sum(len(own.rest) for own in base.prompts),
    )
    against = AgainstLimit(base, *again)
    pool = best_of_n.Pools(
        [best_of_n.Pool(own.reward, own.counts[0]) for own in samples.of_prompts()]
    )
    prompting, beside = None, []
    if prompted:
        row = against.row("prompted", prompted)
        error = prompted.error(prompted.reward)
        prompting = rivals.Prompted(row["reward"], error, prompted.of_each_prompt())
        beside = [{"text": settings.prompted_with, "reward_error": error, **row}]
    kls = [prompting.kl] if prompting else []
    policies = policy_rows(against, [*samples.models, *samples.others][1:], drawn[1:])
    for row in policies:
        row |= rivals.columns(row["kl_policy_to_base_nats"], pool, prompting)
    results = {
        "limit": limit_rows(base, *again, 1.1 * max([*kls, *policies_kl])),
        "best_of_n": best_of_n.best_of_n(pool, best_of_n.powers_of_two(pool.draws)),
        "policies": policies,
        "prompted": beside,
    }
    supports = list(map(Support.of, base.prompts))
    results["openings"] = opening_rows(supports, policies, kls[0] if kls else None)
    for name, columns in TABLES.items():
        write_table(args.out / f"{name}.csv", results[name], columns)
    for row in results["policies"]:
        program.log.info(
            "%s, KL factor %s, seed %s: reward %.3f at %.2f nats; limit %.3f (%.3f to %.3f)",
            *(row[c] for c in ("variant", "kl_factor", "seed", "reward", "kl_policy_to_base_nats")),
            *(row[c] for c in ("limit", "limit_low", "limit_high")),
        )


if __name__ == "__main__":
    program.run(main)
