"""The learning curve of a pretraining: its table and its figure. Needs no heavy library."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from tinycats.files.atomic import write_text
from tinycats.files.tables import format_number
from tinycats.files.text import read_text
from tinycats.program import UserError

#: curve.csv: column → meaning
CURVE: dict[str, str] = {
    "step": "updates made",
    "tokens": "target tokens seen, counted in every epoch",
    "train_nats_per_token": "mean training loss since the row before, nats per token",
    "validation_bits_per_byte": "of the held-out stories under the training-precision model",
}


def write_curve(path: Path, curve: Sequence[Mapping[str, float]]) -> None:
    """Write the learning curve with the columns of :data:`CURVE`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CURVE)
    writer.writerows([format_number(row[column]) for column in CURVE] for row in curve)
    write_text(path, text.getvalue())


def read_curve(path: Path) -> list[dict[str, float]]:
    """Rows of ``curve.csv``.

    Raises:
        UserError: the file has other columns, or a value is no number.
    """
    rows = list(csv.DictReader(read_text(path).splitlines()))
    if not rows or list(rows[0]) != list(CURVE):
        raise UserError(f"{path}: should have rows and the columns {', '.join(CURVE)}")
    try:
        return [{column: float(row[column]) for column in CURVE} for row in rows]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: a value is no number ({error})") from error


def plot(curve: Sequence[Mapping[str, float]], out: Sequence[Path]) -> None:
    """Plot validation bits per byte and training loss against tokens seen, to each path of ``out``."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "learning curve", "svg.fonttype": "path"})
    from matplotlib import pyplot as plt

    best = min(curve, key=lambda row: row["validation_bits_per_byte"])
    tokens = [row["tokens"] / 1e6 for row in curve]
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(6.4, 5.2), sharex=True, height_ratios=(2, 1), layout="constrained"
    )
    # Okabe and Ito's colours, told apart by every kind of colour vision
    above.plot(tokens, [row["validation_bits_per_byte"] for row in curve], color="#0072B2", lw=2)
    above.plot(best["tokens"] / 1e6, best["validation_bits_per_byte"], "o", color="#0072B2")
    above.annotate(
        f"kept: {best['validation_bits_per_byte']:.3f}",
        (best["tokens"] / 1e6, best["validation_bits_per_byte"]),
        xytext=(0, 28),
        textcoords="offset points",
        ha="right" if len(curve) > 1 else "center",
    )
    above.set_ylabel("held-out stories\n(bits per byte)")
    below.plot(tokens, [row["train_nats_per_token"] for row in curve], color="#D55E00", lw=2)
    below.set_ylabel("training stories\n(nats per token)")
    below.set_xlabel("training tokens seen (millions)")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    for path in out:
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=200, metadata=metadata)
    plt.close(figure)
