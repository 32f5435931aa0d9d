"""Pretrain a story model: tokenizer, training with validation, best checkpoint by validation.

By hand: python workflow/scripts/pretrain.py --train train.txt --validation validation.txt --out results/pretrain
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
from pathlib import Path

import torch

from tinycats import pretraining


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="stories, UTF-8 text")
    parser.add_argument("--validation", type=Path, required=True, help="held-out stories")
    parser.add_argument("--out", type=Path, required=True, help="folder for model/ and curve.json")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all)")
    for field in dataclasses.fields(pretraining.Recipe):
        parser.add_argument(
            "--" + field.name.replace("_", "-"), type=type(field.default), default=field.default
        )
    args = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr, force=True
    )
    if args.threads:
        torch.set_num_threads(args.threads)
    names = [field.name for field in dataclasses.fields(pretraining.Recipe)]
    recipe = pretraining.Recipe(**{name: getattr(args, name) for name in names})
    args.out.mkdir(parents=True, exist_ok=True)
    train = pretraining.read_stories(args.train)
    validation = pretraining.read_stories(args.validation)
    folder = args.out / "model"
    if not (folder / "tokenizer.json").exists():
        pretraining.train_tokenizer(train, folder, recipe.vocab_size, recipe.context)
    pretraining.pretrain(
        pretraining.encode_stories(train, folder),
        pretraining.encode_stories(validation, folder),
        sum(len(story.encode()) for story in validation),
        recipe,
        args.out,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
