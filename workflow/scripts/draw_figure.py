"""Draw figures from the tables of a study: of each an SVG, a PNG and a JSON with its caption.

By hand: PYTHONPATH=src python workflow/scripts/draw_figure.py --name frontier \
    --results results/default --concept cat --out results/default/figures
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program
from tinycats.figures import reading, style, writing
from tinycats.figures import registry as figures


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument(
        "--name", nargs="+", required=True, help="figures, as in tinycats.figures.FIGURES"
    )
    parser.add_argument("--results", type=Path, required=True, help="folder results/<study>")
    parser.add_argument("--concept", required=True, help="what stories should be about")
    parser.add_argument("--concept-words", nargs="*", default=[], help="words marked in stories")
    parser.add_argument("--reward", default="", help="its name (default: similarity to CONCEPT)")
    parser.add_argument("--kl-factors", nargs="*", default=[], help="of the study, for the colours")
    parser.add_argument("--variant", default="", help="variant shown (default: blog)")
    parser.add_argument(
        "--variants", nargs="*", default=[], help="all of the study (default: those in the tables)"
    )
    parser.add_argument("--seed", default="0", help="seed whose stories are shown")
    parser.add_argument("--published", type=Path, help="CSV of the published curves")
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.svg, .png, .json")
    args = parser.parse_args()
    for name in args.name:
        draw(name, args)


def draw(name: str, args: argparse.Namespace) -> None:
    figure, kl_factor = figures.find(name)
    style.apply(name)
    tables = reading.Tables.read(
        name,
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
        raise program.UserError(f"--name {name}: KL factor {kl_factor} is not in the study")
    drawing = writing.draw(name, tables)
    of_one = len(args.variants or tables.variants) > 1 and not figure.of_all
    if of_one:
        drawing.finding += f" Shown is the variant {tables.variant}."
    words = {
        "source": list(tables.inputs),
        "kl_factor": kl_factor,
        "order": figure.order + (tables.kl_factors.index(kl_factor) if kl_factor else 0),
        "section": figure.section,
        "variant": tables.variant if of_one else None,
    }
    writing.write(drawing, args.out / name, words)


if __name__ == "__main__":
    program.run(main)
