"""Obtain the base model, or the encoder or classifier of a reward, into a folder, verified by checksum.

By hand:
  PYTHONPATH=src python workflow/scripts/obtain_models.py base-model --model nano --out resources/models/nano
  PYTHONPATH=src python workflow/scripts/obtain_models.py base-model --model roneneldan/TinyStories-33M \\
      --tokenizer EleutherAI/gpt-neo-125M --out resources/models/roneneldan--TinyStories-33M
  PYTHONPATH=src python workflow/scripts/obtain_models.py reward-encoder --sources package hub \\
      --model sentence-transformers/all-MiniLM-L6-v2 --out resources/models/sentence-transformers--all-MiniLM-L6-v2
  PYTHONPATH=src python workflow/scripts/obtain_models.py classifier --model path/to/folder \\
      --out resources/models/folder.classifier
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program
from tinycats.models import obtain
from tinycats.models.folders import undamaged

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--out", type=Path, required=True, help="model folder to write")
    common.add_argument("--revision", default="", help="commit, branch or tag on the Hub")
    common.add_argument("--pins", type=Path, default=ROOT / "config/pins.yaml", help="pins file")
    common.add_argument(
        "--if-damaged", action="store_true", help="keep a folder that is as its manifest lists it"
    )
    which = parser.add_subparsers(
        dest="which", required=True, metavar="base-model|reward-encoder|classifier"
    )
    base = which.add_parser("base-model", parents=[common], help="the story model")
    base.add_argument("--model", required=True, help="nano, a Hub id, or a folder")
    base.add_argument("--tokenizer", default="", help="Hub id or folder, if the model has none")
    base.add_argument("--tokenizer-revision", default="", help="its commit, branch or tag")
    nano = ROOT / "workflow/resources/nano"
    base.add_argument("--nano", type=Path, default=nano, help="folder that holds nano")
    encoder = which.add_parser("reward-encoder", parents=[common], help="the sentence encoder")
    encoder.add_argument("--model", required=True, help="Hub id of the encoder, or a folder")
    encoder.add_argument(
        "--sources", nargs="+", required=True, help="of a Hub id: package, hub or a folder"
    )
    classifier = which.add_parser("classifier", parents=[common], help="a reward's classifier")
    classifier.add_argument("--model", required=True, help="Hub id of the classifier, or a folder")
    args = parser.parse_args()

    if args.if_damaged and undamaged(args.out):
        program.log.info("%s: every file is as it was obtained", args.out)
        return
    if args.which == "base-model":
        manifest = obtain.obtain_base_model(
            args.model,
            args.out,
            args.pins,
            args.nano,
            revision=args.revision or None,
            tokenizer=args.tokenizer or None,
            tokenizer_revision=args.tokenizer_revision or None,
        )
    elif args.which == "classifier":
        manifest = obtain.obtain_classifier(
            args.model, args.out, args.pins, revision=args.revision or None
        )
    else:
        manifest = obtain.obtain_reward_encoder(
            args.model, args.out, args.pins, args.sources, revision=args.revision or None
        )
    program.log.info(
        "%s: %d files from %s %s",
        args.out,
        len(manifest["files"]),
        manifest["source"],
        manifest["from"],
    )


if __name__ == "__main__":
    program.run(main, network=True)
