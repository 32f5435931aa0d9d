"""Make a study's playground: one offline page that runs its base model and policies.

By hand: PYTHONPATH=src python workflow/scripts/make_playground.py --study default \
    --base-model resources/models/nano --kl-factors 0 6000 \
    --policies results/default/policies/blog/kl={0,6000}/seed=0/model \
    --out results/default/playground.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program
from tinycats.files.atomic import write_text
from tinycats.models.folders import verify_folder
from tinycats.report import playground


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument("--study", required=True, help="name of the study, as the page shows it")
    parser.add_argument("--base-model", type=Path, required=True, help="folder of the base model")
    parser.add_argument(
        "--kl-factors", nargs="+", required=True, help="of the policies, smallest first"
    )
    parser.add_argument(
        "--policies", type=Path, nargs="+", required=True, help="model folders, in the same order"
    )
    parser.add_argument("--prompt", default="Once upon a time there was", help="shown at first")
    parser.add_argument(
        "--report", default="report.html", help="where the page links to the report"
    )
    parser.add_argument("--out", type=Path, required=True, help="the page")
    args = parser.parse_args()
    if len(args.policies) != len(args.kl_factors):
        raise program.UserError(
            f"--policies: {len(args.policies)} folders; expected {len(args.kl_factors)}, one for"
            " each of --kl-factors"
        )
    for folder in (args.base_model, *args.policies):
        verify_folder(folder)
    policies = dict(zip(args.kl_factors, args.policies, strict=True))
    page = playground.render(args.study, args.prompt, args.base_model, policies, args.report)
    write_text(args.out, page)
    program.log.info("%s: %.1f MB, %d policies", args.out, len(page.encode()) / 1e6, len(policies))


if __name__ == "__main__":
    program.run(main)
