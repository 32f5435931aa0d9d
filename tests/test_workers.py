"""Whole pieces of work in threads: same results in the same order, and torch's threads shared."""

from __future__ import annotations

import threading

import pytest
import torch
from test_reward import FOLDER, made_up_texts

from tinycats.compute import workers
from tinycats.reward.similarity import RewardEncoder


@pytest.mark.parametrize("threads", [1, 3])
def test_pieces_are_computed_at_once_by_one_thread_each(threads: int) -> None:
    torch.set_num_threads(threads)
    meeting = threading.Barrier(threads)

    def work(piece: int) -> tuple[int, int]:
        meeting.wait(60)  # for as many pieces at the same time
        return piece, torch.get_num_threads()

    assert list(workers.run(work, range(2 * threads))) == [(n, 1) for n in range(2 * threads)]
    assert torch.get_num_threads() == threads


def test_an_error_reaches_the_caller() -> None:
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        list(workers.run(lambda piece: 1 // piece, [1, 0, 1]))


def test_embeddings_depend_neither_on_threads_nor_on_company() -> None:
    """To the last bit, though more threads divide the texts into more passes."""
    encoder = RewardEncoder(FOLDER)
    texts = made_up_texts((2, 40), (9, 300), (10, 17), (29, 2), (120, 9))
    expected = encoder.embed(texts)  # by one thread
    for threads in (2, 20):
        torch.set_num_threads(threads)
        assert (encoder.embed(texts) == expected).all()
        assert (encoder.embed(texts[::30]) == expected[::30]).all()
        assert (encoder.embed(texts[-1:]) == expected[-1:]).all()
