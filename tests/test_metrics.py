"""Every measure on text short enough to work out by hand, and on the texts that break measures."""

from __future__ import annotations

import gzip
import math
import re

import pytest

from tinycats.mentions import Mentions
from tinycats.program import UserError
from tinycats.scores import metrics, scoring
from tinycats.scores.metrics import words

NEVER_ENDS = "cat cat " * 5000
AWKWARD = [
    "",
    " \n\n ",
    "cat",
    "!!! ...",
    "Жила-была кошка.",
    "从前有一只猫。",
    "\ud83d",
    NEVER_ENDS,
]


def test_words_are_lower_case_with_apostrophes_inside() -> None:
    assert words("The cat-like kitten didn’t purr: 'no'!") == [
        "the", "cat", "like", "kitten", "didn't", "purr", "no",
    ]  # fmt: skip
    assert words("Жила-была КОШКА.") == ["жила", "была", "кошка"]
    assert words("") == []


def test_distinct_bigrams() -> None:
    # the cat / cat the / the cat / cat ran: 3 distinct of 4
    assert metrics.distinct_share(words("The cat, the cat ran"), 2) == 3 / 4
    assert math.isnan(metrics.distinct_share(["cat"], 2))


def test_repeated_4_grams() -> None:
    # a b a b a b has the 4-grams abab, baba, abab: 2 distinct of 3
    assert 1 - metrics.distinct_share(words("a b a b a b"), 4) == pytest.approx(1 / 3)
    assert 1 - metrics.distinct_share(words("a b c d e"), 4) == 0


def test_a_line_break_is_a_run_of_newlines_inside_the_text() -> None:
    assert metrics.line_breaks("One.\n\nTwo.\n \n\nThree.\nFour.") == 3
    assert metrics.line_breaks("\n\nOne line.\n\n") == 0
    assert metrics.line_breaks("") == 0


def test_mentions_are_whole_words_whatever_their_case() -> None:
    mentions = Mentions(["cat", "cats", "cat's", "ice cream"])
    text = "Cat! A caterpillar and the cats ate the cat’s ice cream; concat cat-like."
    assert [text[i : i + 3].lower() for i in mentions.positions(text)] == [
        "cat", "cat", "cat", "ice", "cat",
    ]  # fmt: skip
    assert Mentions(["кошка"]).positions("Это Кошка.") == [4]
    assert Mentions(["c++ (cat)", "a.t"]).spans("A.t, cat: C++ (Cat) act") == [(0, 3), (10, 19)]
    assert mentions.spans("a cat, a cat", start=5) == [(9, 12)]


def test_the_report_marks_what_the_scores_count() -> None:
    """The page's pattern is the same but for the letters of a word, which JavaScript spells out."""
    mentions = Mentions(["cat", "cat's", "c++ (cat)", "cat-like"])
    letter = "[\\p{L}\\p{N}_]"
    assert mentions.javascript.count(letter) == 2
    # with the flag u, JavaScript allows a backslash before nothing but these and letters
    assert set(re.findall(r"\\(\W)", mentions.javascript)) <= set("^$\\.*+?()[]{}|/")
    same = re.compile(mentions.javascript.replace(letter, r"\w"), re.IGNORECASE)
    text = "The Cat’s cat-like c++ (cat), cat_like."
    assert [m.span() for m in same.finditer(text)] == mentions.spans(text)
    assert [text[slice(*span)] for span in mentions.spans(text)] == [
        "Cat’s", "cat-like", "c++ (cat)",
    ]  # fmt: skip


@pytest.mark.parametrize("listed", [[], [""], ["cat", " "]])
def test_an_empty_word_list_is_refused(listed: list[str]) -> None:
    with pytest.raises(UserError, match="concept_words"):
        Mentions(listed)


def test_perplexity_counts_every_token() -> None:
    # probabilities 1/2 and 1/8: the geometric mean is 1/4
    assert metrics.perplexity([math.log(1 / 2), math.log(1 / 8)]) == pytest.approx(4)
    assert metrics.perplexity([math.log(1 / 7)]) == pytest.approx(7)
    assert math.isnan(metrics.perplexity([]))
    assert math.isfinite(metrics.perplexity([-5000.0]))


def test_self_bleu_of_two_stories() -> None:
    # each shares 2 of 3 words, 1 of 2 bigrams, 0 of 1 trigrams (smoothed to 1/2); no 4-gram
    both = [words("the cat sat"), words("the cat ran")]
    assert metrics.self_bleu(both) == pytest.approx((2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3))


def test_self_bleu_penalises_brevity_and_clips_counts() -> None:
    # "a b" is half as long: exp(1 − 4/2); "a b c d": 2/4, 1/3, then 0 of 2 and 0 of 1, smoothed
    long = (2 / 4 * 1 / 3 * 1 / (2 * 2) * 1 / (4 * 1)) ** (1 / 4)
    assert metrics.self_bleu([["a", "b"], list("abcd")]) == pytest.approx((math.exp(-1) + long) / 2)
    # of "a a a" only as many count as another story has: two, and one "a a"; "a a" is shorter by 1
    clipped = (2 / 3 * 1 / 2 * 1 / (2 * 1)) ** (1 / 3)
    assert metrics.self_bleu([["a"] * 3, ["a"] * 2]) == pytest.approx(
        (clipped + math.exp(1 - 3 / 2)) / 2
    )


def test_self_bleu_takes_the_closest_length_and_the_best_other_count() -> None:
    # among three: "a b" has a twin; "c" matches nothing, which is 0, smoothed or not
    assert metrics.self_bleu([["a", "b"], ["a", "b"], ["c"]]) == pytest.approx(2 / 3)


def test_self_bleu_extremes() -> None:
    assert metrics.self_bleu([list("abcde")] * 3) == pytest.approx(1)
    assert metrics.self_bleu([list("abcde"), list("fghij")]) == 0
    assert math.isnan(metrics.self_bleu([["cat"]]))
    assert math.isnan(metrics.self_bleu([[], ["cat"], []]))


def test_vendi_score_counts_different_stories() -> None:
    assert metrics.vendi_score([list("abcd"), list("efgh"), list("ijkl")]) == pytest.approx(3)
    assert metrics.vendi_score([list("abcd")] * 3) == pytest.approx(1)
    assert metrics.vendi_score([[], [], []]) == pytest.approx(1)
    assert math.isnan(metrics.vendi_score([]))


def test_vendi_score_between_the_extremes() -> None:
    # "a b" and "a c": unigram cosine 1/2, bigram 0, and both without 3- and 4-grams (alike):
    # K = [[1, k], [k, 1]] with k = (1/2 + 0 + 1 + 1) / 4; eigenvalues of K/2: (1 ± k) / 2
    k = 2.5 / 4
    entropy = -sum(x * math.log(x) for x in ((1 + k) / 2, (1 - k) / 2))
    assert metrics.vendi_score([["a", "b"], ["a", "c"]]) == pytest.approx(math.exp(entropy))


def test_compression_ratio() -> None:
    data = b"A cat sat.\nA cat sat."
    expected = len(data) / len(gzip.compress(data, 9, mtime=0))
    assert metrics.compression_ratio(["A cat sat.", "A cat sat."]) == expected
    one = metrics.compression_ratio(["The cat sat on the mat and purred."])
    assert metrics.compression_ratio(["The cat sat on the mat and purred."] * 50) > 10 * one
    assert math.isnan(metrics.compression_ratio(["", ""]))


def test_rarefaction_is_the_exact_expectation() -> None:
    # two of {x, y, z, z}: 1 of the 6 pairs is z z, the others are of two kinds
    assert metrics.expected_distinct([1, 1, 2], 2) == pytest.approx(11 / 6)
    assert metrics.expected_distinct([1, 1, 2], 4) == 3
    assert metrics.expected_distinct([1, 1, 2], 1) == pytest.approx(1)
    assert math.isnan(metrics.expected_distinct([1, 1, 2], 5))
    assert metrics.expected_distinct([2000], 1000) == 1
    # all different: whatever is drawn is different
    assert metrics.expected_distinct([1] * 20000, 1000) == pytest.approx(1000)


def test_a_sample_is_evenly_spaced() -> None:
    stories = [[str(i)] for i in range(64)]
    sample = metrics.evenly_spaced(stories, 24)
    assert len(sample) == 24
    assert sample[:4] == [["0"], ["2"], ["5"], ["8"]]
    assert metrics.evenly_spaced(stories[:5], 24) == stories[:5]


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("ended", [True, False])
def test_every_score_survives_awkward_stories(text: str, ended: bool) -> None:
    story = {"text": text, "token_ids": [5], "log_prob_base": [-1.0], "ended": ended}
    row = scoring.score_story(story, Mentions(["cat"]))
    assert row["ended"] == int(ended)
    assert row["tokens"] == 1
    assert row["mentions_concept"] == int("cat" in text)
    assert row["perplexity_under_base"] == pytest.approx(math.e)
    assert math.isnan(row["distinct_2"]) == (len(words(text)) < 2)
    assert math.isnan(row["repeated_4_grams"]) == (len(words(text)) < 4)
    assert math.isnan(row["mentions_per_100_words"]) == (not words(text))
    pair = scoring.score_set([text, text])
    assert pair["vendi_score"] == pytest.approx(1)
    assert math.isnan(pair["compression_ratio"]) == (not text.strip())
    assert math.isnan(pair["self_bleu"]) == (not words(text))


def test_a_story_that_only_says_the_concept() -> None:
    story = {"text": NEVER_ENDS, "token_ids": [1, 2], "log_prob_base": [0.0, 0.0], "ended": False}
    row = scoring.score_story(story, Mentions(["cat"]))
    assert row["mentions_per_100_words"] == 100
    assert row["words"] == 10000
    assert row["distinct_2"] == 1 / 9999
    assert row["repeated_4_grams"] == 1 - 1 / 9997
