"""Draw the learning curve of a pretraining.

By hand: PYTHONPATH=src python workflow/scripts/pretrain_figure.py --curve results/pretrain/nano/curve.csv
--out curve.svg curve.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program
from tinycats.pretrain import learning_curve


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument("--curve", type=Path, required=True, help="curve.csv of a pretraining")
    parser.add_argument("--out", type=Path, nargs="+", required=True, help="figures: .svg, .png")
    args = parser.parse_args()
    learning_curve.plot(learning_curve.read_curve(args.curve), args.out)


if __name__ == "__main__":
    program.run(main)
