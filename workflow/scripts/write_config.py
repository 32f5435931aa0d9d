"""Write the merged configuration of a study as YAML, beside its results."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program
from tinycats.files.atomic import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--config", type=program.json_object, required=True, help="configuration as JSON"
    )
    parser.add_argument("--out", type=Path, required=True, help="YAML file to write")
    args = parser.parse_args()

    import yaml

    text = yaml.safe_dump(args.config, sort_keys=False, allow_unicode=True, width=100)
    write_text(args.out, text)


if __name__ == "__main__":
    program.run(main)
