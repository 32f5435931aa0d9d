"""The site of docs/ builds: links, anchors, every page in the menu; its messages are those of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_the_site_builds_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.name == "index.html"]
    assert len(pages) > 12
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loads = re.findall(r"""<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)="([^"]+)""", text)
        assert loads
        assert not [url for url in loads if url.startswith(("http", "//"))], page


def test_links_out_of_docs_are_text_without_an_address(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    assert "the notebook (<code>notebooks/aligning_tinystories.ipynb</code>)" in text


def test_links_out_of_docs_go_to_the_repository(tmp_path: Path) -> None:
    env = {**os.environ, "REPOSITORY_URL": "https://github.com/someone/tinycats"}
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "-q",
        "--strict",
        "--site-dir",
        str(tmp_path),
    ]
    subprocess.run(command, cwd=ROOT, check=True, env=env)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    place = "someone/tinycats/blob/main/notebooks/aligning_tinystories.ipynb"
    assert f'href="https://github.com/{place}"' in text
    assert f'href="https://colab.research.google.com/github/{place}"' in text


def test_the_config_page_has_every_key(site: Path) -> None:
    text = (site / "config" / "index.html").read_text(encoding="utf-8")
    for key in (
        "study",
        "training.kl_factors",
        "variants.&lt;name&gt;.advantage",
        "evaluation.prompts",
    ):
        assert f"<code>{key}</code>" in text, key
    defaults = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for key in defaults["training"]:
        assert f"<code>training.{key}</code>" in text, key
    assert "<code>[0, 1500, 6000, 24000]</code>" in text


def test_messages_in_troubleshooting_are_the_codes() -> None:
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("src", "workflow/rules")
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".py", ".smk")
    )
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # literals that are joined
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert len(messages) > 10
    for message in messages:
        assert message in code, message
