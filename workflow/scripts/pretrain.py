"""Pretrain a story model: tokenizer, training with validation, best checkpoint by validation.

By hand: PYTHONPATH=src python workflow/scripts/pretrain.py --train train.txt
--validation validation.txt --out results/pretrain/mine
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from tinycats import program


def main() -> None:
    from tinycats.compute import devices
    from tinycats.files.atomic import write_text
    from tinycats.pretrain import corpus
    from tinycats.pretrain import training as pretraining
    from tinycats.pretrain.recipe import Recipe

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True, help="stories, UTF-8 text")
    parser.add_argument("--validation", type=Path, required=True, help="held-out stories")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for model/, curve.csv, run.json, checkpoint/",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or a torch device such as cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all available)")
    for field in dataclasses.fields(Recipe):
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=type(field.default),
            default=field.default,
            help="see config/pretrain.yaml (default: %(default)s)",
        )
    args = parser.parse_args()
    names = [field.name for field in dataclasses.fields(Recipe)]
    recipe = Recipe(**{name: getattr(args, name) for name in names})
    devices.set_threads(args.threads)
    device = devices.choose_device(args.device)

    texts = {"train": args.train, "validation": args.validation}
    train, validation = (corpus.read_stories(path) for path in texts.values())
    unfinished = args.out / "checkpoint" / "model"
    corpus.train_tokenizer(train, unfinished, recipe.vocab_size, recipe.context)
    result = pretraining.pretrain(
        corpus.encode_stories(train, unfinished),
        corpus.encode_stories(validation, unfinished),
        sum(len(story.encode()) for story in validation),
        recipe,
        args.out,
        device,
    )
    record = pretraining.run_record(recipe, texts, result, device)
    write_text(args.out / "run.json", record)


if __name__ == "__main__":
    program.run(main)
