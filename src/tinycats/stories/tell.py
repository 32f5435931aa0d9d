"""``tinycats tell``: a story from a trained policy, token by token, in the terminal.

As the post's ``python sample.py``, with the report's colours: each token is tinted by how much more
(warm) or less (cool) likely the policy finds it than the base, log π − log p_base in nats.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TextIO

from tinycats import __version__, layout, program
from tinycats.language_model.text import check_prompt, decode
from tinycats.layout import canonical
from tinycats.policies.settings import TrainingBlock
from tinycats.program import UserError
from tinycats.stories.study_files import base_folder, check_name, policy_folder

if TYPE_CHECKING:
    from tinycats.language_model.network import Network

OPENING = "Once upon a time there was"
#: (at least this many nats, 256-colour code of the text), strongest first; grey is left as it is
TINTS = ((3.0, 196), (1.5, 208), (0.5, 179), (-0.5, None), (-1.5, 109), (-3.0, 39), (-1e9, 27))
NARROWEST = 16  # columns of one of two stories side by side


@dataclass(frozen=True)
class Piece:
    """The text that one token adds, and its log π − log p_base in nats (None: the prompt)."""

    text: str
    difference: float | None


# ---------------------------------------------------------------------------- stories


def draw_story(
    teller: Network,
    policy: Network,
    base: Network,
    prompt_ids: Sequence[int],
    uniforms: Any,
    end_token: int,
) -> Iterator[tuple[int, float]]:
    """Tokens of one story as they are drawn, each with its log π − log p_base in nats.

    Args:
        teller: the model that draws the tokens, ``policy`` or ``base``.
        uniforms: ``(new tokens,)`` in [0, 1): token t is drawn by inversion at ``uniforms[t]``, so
            that the stories of two models with equal random numbers can be compared.
    """
    import torch
    from transformers import DynamicCache

    from tinycats.language_model.sampling import draw_tokens

    caches = {id(network): (network, DynamicCache()) for network in (policy, base)}
    fed = torch.tensor([list(prompt_ids)])
    for uniform in uniforms:
        with torch.inference_mode():
            log_p = {}
            for key, (network, cache) in caches.items():
                log_p[key] = network.next_log_probabilities(fed, cache)
            u = torch.tensor([float(uniform)], dtype=torch.float64)
            token = int(draw_tokens(log_p[id(teller)].exp(), u, torch.zeros(1, dtype=torch.long)))
        yield token, float(log_p[id(policy)][0, token] - log_p[id(base)][0, token])
        if token == end_token:
            return
        fed = torch.tensor([[token]])


def pieces(
    tokenizer: Any, prompt: str, tokens: Iterator[tuple[int, float]], end_token: int
) -> Iterator[Piece]:
    """Text of a story as it grows; bytes of an incomplete character wait for the rest of it."""
    yield Piece(printable(prompt), None)
    ids: list[int] = []
    told = ""
    for token, difference in tokens:
        if token == end_token:
            break
        ids.append(token)
        text = decode(tokenizer, ids, special_tokens=True)
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(text) - len(told) < 4:
            continue
        yield Piece(printable(text[len(told) :]), difference)
        told = text


def printable(text: str) -> str:
    """Without control characters, which could move the cursor or recolour the terminal."""
    return "".join(c for c in text if c == "\n" or unicodedata.category(c)[0] != "C")


# ---------------------------------------------------------------------------- the terminal


def has_colour(out: TextIO) -> bool:
    """Whether ``out`` is a terminal that may be coloured (https://no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def tint(text: str, difference: float | None, colour: bool) -> str:
    """``text`` with the colour of its difference."""
    if not colour or not text:
        return text
    if difference is None:
        return f"\x1b[1m{text}\x1b[0m"
    code = next(code for least, code in TINTS if difference >= least)
    return text if code is None else f"\x1b[38;5;{code}m{text}\x1b[0m"


def legend(colour: bool) -> str:
    """One line on the colours."""
    if not colour:
        return ""
    steps = (("< −3", -4), ("−1.5", -2), ("−0.5", -1), ("0.5", 1), ("1.5", 2), ("> 3", 4))
    scale = "  ".join(tint(label, difference, True) for label, difference in steps)
    return f"log π − log p_base, nats: {scale}\n"


# Wrapped here, not by rich: its Live display redraws a region, prints nothing before the end where
# the output is a file or a pipe, and cuts off what is taller than the screen.
@dataclass
class Column:
    """One of two stories side by side: words are wrapped into lines as they arrive."""

    width: int
    colour: bool
    lines: list[str] = field(default_factory=list)  # complete ones, padded to the width
    line: str = ""  # with colours
    taken: int = 0  # columns of ``line``
    word: list[tuple[str, float | None]] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        for character in piece.text:
            if character in " \n":
                self._end_word()
                if character == "\n":
                    self._end_line()
                elif 0 < self.taken < self.width:
                    self.line, self.taken = self.line + " ", self.taken + 1
            else:
                self.word.append((character, piece.difference))

    def finish(self) -> None:
        self._end_word()
        if self.taken:
            self._end_line()

    def _end_word(self) -> None:
        if self.taken and self.taken + sum(columns(c) for c, _ in self.word) > self.width:
            self._end_line()
        for character, difference in self.word:
            if self.taken + columns(character) > self.width:
                self._end_line()
            self.line += tint(character, difference, self.colour)
            self.taken += columns(character)
        self.word = []

    def _end_line(self) -> None:
        self.lines.append(self.line + " " * (self.width - self.taken))
        self.line, self.taken = "", 0


def columns(character: str) -> int:
    """Columns of the terminal that a character takes."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def side_by_side(
    stories: Sequence[Iterator[Piece]], titles: Sequence[str], out: TextIO, colour: bool
) -> None:
    """Print stories as columns; a line is printed once every unfinished column has it."""
    width = max(NARROWEST, (shutil.get_terminal_size().columns - 3) // len(stories))
    boxes = [Column(width, colour) for _ in stories]
    gap = " │ "
    print(gap.join(title[:width].ljust(width) for title in titles).rstrip(), file=out)
    print("─┼─".join("─" * width for _ in titles), file=out, flush=True)
    going, printed = set(range(len(stories))), 0
    while going or printed < max(len(box.lines) for box in boxes):
        for i in sorted(going):
            piece = next(stories[i], None)
            if piece is not None:
                boxes[i].add(piece)
            else:
                boxes[i].finish()
                going.discard(i)
        while printed < max(len(box.lines) for box in boxes) and all(
            printed < len(box.lines) or i not in going for i, box in enumerate(boxes)
        ):
            row = [b.lines[printed] if printed < len(b.lines) else " " * width for b in boxes]
            print(gap.join(row).rstrip(), file=out, flush=True)
            printed += 1


# ---------------------------------------------------------------------------- the command


def tell(args: argparse.Namespace, out: TextIO) -> None:
    """Tell one story, or the base's and the policy's side by side."""
    check_prompt(args.prompt)
    policy = policy_folder(args.study, args.variant, args.kl, args.seed)
    base = base_folder(policy)

    import numpy as np

    from tinycats.language_model.network import network_with_onednn
    from tinycats.language_model.text import check_context, context_of, encode_prompt
    from tinycats.models.folders import load_causal_lm
    from tinycats.policies.record import check_policy

    check_policy(policy, base)
    model, tokenizer = load_causal_lm((policy / layout.WEIGHTS.name).parent)
    networks = {
        "policy": network_with_onednn(model),
        "base": network_with_onednn(load_causal_lm(base)[0]),
    }
    ids = encode_prompt(tokenizer, args.prompt)
    if not ids:
        raise UserError("the prompt is empty; it should have a word at least, such as Once")
    check_context("--new-tokens", args.new_tokens, len(ids), context_of(model))
    # by the policy's seed and the story's index: another story, other random numbers
    uniforms = np.random.default_rng([args.seed, args.story]).random(args.new_tokens)
    end = tokenizer.eos_token_id
    colour = has_colour(out)

    def story(teller: str) -> Iterator[Piece]:
        tokens = draw_story(
            networks[teller], networks["policy"], networks["base"], ids, uniforms, end
        )
        return pieces(tokenizer, args.prompt, tokens, end)

    if args.compare:
        titles = ["base", f"KL factor {args.kl}, seed {args.seed}"]
        side_by_side([story("base"), story("policy")], titles, out, colour)
    else:
        for piece in story("policy"):
            print(tint(piece.text, piece.difference, colour), end="", file=out, flush=True)
        print(file=out)
    print(legend(colour), end="", file=out)


def _whole(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError
    return number


def _positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _factor(text: str) -> str:
    bounds = next(field for field in fields(TrainingBlock) if field.name == "kl_factors").metadata
    if not bounds["minimum"] <= float(text) <= bounds["maximum"]:  # NaN fails too
        raise ValueError
    return canonical(float(text))


# argparse names them in errors
_whole.__name__, _positive.__name__ = "whole number", "positive number"
_factor.__name__ = "KL factor"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tinycats",
        description="Stories from the policies of a study, and the study while it runs.",
    )
    parser.add_argument("--version", action="version", version=f"tinycats {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    telling = commands.add_parser(
        "tell",
        help="tell a story in the terminal",
        description="Tell a story with a trained policy, each token coloured by log π − log p_base"
        " (NO_COLOR=1 for none).",
    )
    add = telling.add_argument
    add("prompt", nargs="?", default=OPENING, help=f"how the story begins (default: {OPENING})")
    add("--kl", type=_factor, default="6000", help="KL factor of the policy (default: 6000)")
    add("--compare", action="store_true", help="the base model's story, too, same random numbers")
    add(
        "--study", default="default", help="study of the policy: results/<study> (default: default)"
    )
    add("--variant", default="blog", help="variant of the policy (default: blog)")
    add("--seed", type=_whole, default=0, help="seed of the policy (default: 0)")
    add("--story", type=_whole, default=0, help="another number, another story (default: 0)")
    add("--new-tokens", type=_positive, default=250, help="at most this many tokens (default: 250)")
    watching = commands.add_parser(
        "watch",
        help="show a running study",
        description="Show a running study: stages done and to come, time left, reward and KL.",
    )
    watching.add_argument("study", nargs="?", default="default", help="results/<study>")
    return parser.parse_args(arguments)


def _main() -> None:
    args = parse()
    try:
        if args.command == "watch":
            from tinycats.watch import watch

            check_name("study", args.study)
            watch(args.study)
        else:
            tell(args, sys.stdout)
    except BrokenPipeError:  # the output is a pipe whose reader has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("\x1b[0m" if has_colour(sys.stdout) else "", flush=True)
        raise SystemExit(130) from None


def main() -> None:
    """The console script ``tinycats``."""
    program.run(_main)


if __name__ == "__main__":
    main()
