"""Write the merged configuration of a study as YAML, beside its results."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program
from tinycats.files.atomic import write_text
from tinycats.settings import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument(
        "--config", type=read_json, required=True, help="configuration as JSON, or @FILE"
    )
    parser.add_argument("--out", type=Path, required=True, help="YAML file to write")
    args = parser.parse_args()
    if not isinstance(args.config, dict):
        raise program.UserError(f"--config: {args.config!r} found, expected a JSON object")

    import yaml

    text = yaml.safe_dump(args.config, sort_keys=False, allow_unicode=True, width=100)
    write_text(args.out, text)


if __name__ == "__main__":
    program.run(main)
