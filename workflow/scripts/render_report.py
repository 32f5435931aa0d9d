"""Render a study's report: report.html, one self-contained page, and results.md from the same data.

By hand: PYTHONPATH=src python workflow/scripts/render_report.py --results results/default
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tinycats import program, published
from tinycats.files.atomic import write_text
from tinycats.report import markdown as markdown_results
from tinycats.report import page as report
from tinycats.report.reading import read_study


def main() -> None:
    parser = argparse.ArgumentParser(description=program.summary(__doc__))
    parser.add_argument("--results", type=Path, required=True, help="results/<study>")
    parser.add_argument(
        "--models", type=Path, default=Path("resources/models"), help="folder of the manifests"
    )
    parser.add_argument("--concept", help="default: the one in the study's config.yaml")
    parser.add_argument(
        "--command", help="what regenerates the study; default: one with its config"
    )
    parser.add_argument("--out", type=Path, help="the page; default: report.html in the results")
    parser.add_argument("--markdown", type=Path, help="default: results.md in the results")
    parser.add_argument(
        "--copy-figures",
        type=Path,
        metavar="FOLDER",
        help="copy the figures that the Markdown shows here and link to the copies",
    )
    parser.add_argument(
        "--record-code", type=Path, metavar="FILE", help="write digests of every stage's code here"
    )
    args = parser.parse_args()
    study = read_study(args.results, args.models, args.concept)
    again = f"snakemake --cores 1 --resources gpu=1 --configfile {args.results / 'config.yaml'}"
    command = args.command or again
    out = args.out or args.results / "report.html"
    page = report.render(study, command, (out.parent / "playground.html").exists())
    markdown = args.markdown or args.results / "results.md"
    text = markdown_results.render(study, command, markdown, args.copy_figures)
    write_text(out, page)
    write_text(markdown, text)
    if args.record_code:
        published.record(args.record_code)
    program.log.info("%s: %.1f MB, %d stories", out, len(page.encode()) / 1e6, len(study.stories))


if __name__ == "__main__":
    program.run(main)
