"""Measure a story model and write its card, README.md, into its folder.

By hand: PYTHONPATH=src python workflow/scripts/model_card.py --model results/pretrain/nano/model
--run results/pretrain/nano/run.json --curve results/pretrain/nano/curve.csv --train train.txt
--validation validation.txt --encoder resources/models/sentence-transformers--all-MiniLM-L6-v2
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tinycats import program


def main() -> None:
    from tinycats.compute import devices
    from tinycats.files.atomic import write_text
    from tinycats.files.text import read_json, read_text
    from tinycats.pretrain import corpus, model_card

    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument("--model", type=Path, required=True, help="model folder, gets README.md")
    parser.add_argument("--run", type=Path, required=True, help="run.json of the pretraining")
    parser.add_argument("--curve", type=Path, required=True, help="curve.csv of the pretraining")
    parser.add_argument("--train", type=Path, required=True, help="text it was trained on")
    parser.add_argument("--validation", type=Path, required=True, help="held-out stories")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of the reward encoder")
    parser.add_argument("--notes", type=Path, default=None, help="Markdown: what was tried")
    parser.add_argument("--numbers", type=Path, default=None, help="also write the numbers as JSON")
    parser.add_argument("--device", default="auto", help="auto, cpu or a torch device such as cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: all available)")
    args = parser.parse_args()
    devices.set_threads(args.threads)
    device = devices.choose_device(args.device)
    notes = read_text(args.notes) if args.notes else ""
    run = read_json(args.run)
    numbers = model_card.measure(
        args.model,
        corpus.read_stories(args.train),
        corpus.read_stories(args.validation),
        args.encoder,
        device,
    )
    text = model_card.card(args.model, numbers, run, args.curve, notes)
    if args.numbers:
        write_text(args.numbers, json.dumps(numbers, indent=2, ensure_ascii=False) + "\n")
    write_text(args.model / "README.md", text)


if __name__ == "__main__":
    program.run(main)
