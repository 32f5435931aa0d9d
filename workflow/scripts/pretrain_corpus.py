"""Download the text that a story model is pretrained on from the Hub.

By hand: PYTHONPATH=src python workflow/scripts/pretrain_corpus.py
--dataset roneneldan/TinyStories --out resources/corpora/tinystories
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program


def main() -> None:
    from tinycats.pretrain import corpus

    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument("--dataset", required=True, help="Hub id of the data set")
    parser.add_argument("--revision", default="", help="commit (default: the newest)")
    parser.add_argument("--out", type=Path, required=True, help="folder for train.txt, …")
    args = parser.parse_args()
    corpus.fetch(args.dataset, args.revision or None, args.out)


if __name__ == "__main__":
    program.run(main, network=True)
