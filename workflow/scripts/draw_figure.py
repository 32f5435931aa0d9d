"""Draw one figure from the tables of a study: SVG, PNG and a JSON with its caption.

By hand: PYTHONPATH=src python workflow/scripts/draw_figure.py --name frontier \
    --results results/default --concept cat --out-prefix results/default/figures/frontier
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program
from tinycats.figures import reading, style, writing
from tinycats.figures import registry as figures


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument("--name", required=True, help="figure, as in tinycats.figures.FIGURES")
    parser.add_argument("--results", type=Path, required=True, help="folder results/<study>")
    parser.add_argument("--concept", required=True, help="what stories should be about")
    parser.add_argument("--concept-words", nargs="*", default=[], help="words marked in stories")
    parser.add_argument("--reward", default="", help="its name (default: similarity to CONCEPT)")
    parser.add_argument("--kl-factors", nargs="*", default=[], help="of the study, for the colours")
    parser.add_argument("--variant", default="", help="variant shown (default: blog)")
    parser.add_argument("--seed", default="0", help="seed whose stories are shown")
    parser.add_argument("--published", type=Path, help="CSV of the published curves")
    parser.add_argument("--out-prefix", type=Path, required=True, help="path without .svg")
    args = parser.parse_args()

    figure, kl_factor = figures.find(args.name)
    style.apply(args.name)
    tables = reading.Tables.read(
        args.name,
        results=args.results,
        concept=args.concept,
        concept_words=args.concept_words,
        reward=args.reward,
        kl_factors=args.kl_factors,
        variant=args.variant,
        seed=args.seed,
        published=args.published,
    )
    if kl_factor and kl_factor not in tables.kl_factors:
        raise program.UserError(f"--name {args.name}: KL factor {kl_factor} is not in the study")
    drawing = writing.draw(args.name, tables)
    if len(tables.variants) > 1 and not figure.of_all:
        drawing.finding += f" Shown is the variant {tables.variant}."
    words = {
        "source": list(tables.inputs),
        "kl_factor": kl_factor,
        "order": figure.order + (tables.kl_factors.index(kl_factor) if kl_factor else 0),
        "section": figure.section,
    }
    writing.write(drawing, args.out_prefix, words)


if __name__ == "__main__":
    program.run(main)
