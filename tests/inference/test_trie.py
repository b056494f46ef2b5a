"""The trie of known answers and the search through it: every path, equal tokens, the exact posterior, its bounds."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.trie import DECLINING, Posterior, Search, Trie

END = 1
#: Answers of few different tokens, so that many begin alike; each ends with the end mark.
PATHS = st.lists(st.lists(st.integers(2, 5), max_size=6).map(lambda tokens: (*tokens, END)), min_size=1, max_size=25)
VOCABULARY = 7


def logits_after(prefix: tuple[int, ...], sharpness: float) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    """What a decoder might say after these tokens: always the same after the same."""
    chance = np.random.default_rng([7, *prefix])
    return (sharpness * chance.normal(size=VOCABULARY)).astype(np.float32)


def run(
    trie: Trie, questions: int = 1, *, sharpness: float = 1.0, k: int | None = None, **options: float
) -> list[Posterior]:
    """Search as an engine does, with :func:`logits_after` for a decoder, each question with logits of its own."""
    search = Search(trie, questions, **options)  # type: ignore[arg-type]
    prefixes = [(number,) for number in range(questions)]
    while len(search.questions):
        tokens, parents = search.tokens, search.parents
        prefixes = [
            prefixes[parent] if token < 0 else (*prefixes[parent], int(token))
            for parent, token in zip(parents, tokens, strict=True)
        ]
        logits = np.array([logits_after(prefix, sharpness) for prefix in prefixes])
        search.step(logits, np.log(np.exp(logits).sum(axis=1)))
    return search.posteriors(k)


def by_scoring_all(paths: list[tuple[int, ...]], question: int, sharpness: float) -> dict[tuple[int, ...], float]:
    """Score every answer along its whole path, among the tokens that some answer goes on with."""
    found = {}
    for path in set(paths):
        total = 0.0
        for depth, token in enumerate(path):
            going_on = sorted({other[depth] for other in paths if other[:depth] == path[:depth]})
            logits = logits_after((question, *path[:depth]), sharpness)[going_on].astype(np.float64)
            total += logits[going_on.index(token)] - np.log(np.exp(logits).sum())
        found[path] = total
    return found


@given(PATHS)
def test_every_path_of_kept_tokens_leads_to_exactly_the_answers_that_have_them(paths: list[tuple[int, ...]]) -> None:
    trie = Trie.build(paths)
    seen = []
    reached: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for node, prefix in reached:
        belonging = [index for index, path in enumerate(paths) if path[: len(prefix)] == prefix]
        assert sorted(trie.below(node)) == belonging
        if trie.leaf(node):
            seen += belonging
        reached += [(int(child), (*prefix, int(trie.token[child]))) for child in trie.children(node)]
    assert sorted(seen) == list(range(len(paths))), "each answer stands in one leaf"
    assert trie.depth == max(len(prefix) for _, prefix in reached)


@given(PATHS)
def test_only_as_many_tokens_are_kept_as_tell_answers_apart(paths: list[tuple[int, ...]]) -> None:
    trie = Trie.build(paths)
    for node in range(1, len(trie.token)):
        if not trie.leaf(node):
            assert len({paths[index] for index in trie.below(node)}) > 1


@settings(deadline=None)
@given(PATHS, st.sampled_from([0.1, 1.0, 4.0]))
def test_the_posterior_of_a_small_set_is_that_of_scoring_every_answer(
    paths: list[tuple[int, ...]], sharpness: float
) -> None:
    for question, found in enumerate(run(Trie.build(paths), 2, sharpness=sharpness, width=100, floor=1e-300)):
        expected = by_scoring_all(paths, question, sharpness)
        for index, log_probability in zip(found.indices, found.log_probabilities, strict=True):
            assert log_probability == pytest.approx(
                expected[paths[index]] - np.log(paths.count(paths[index])), abs=1e-6
            )
        assert found.rest == 0
        assert np.exp(found.log_probabilities).sum() == pytest.approx(1)
        assert list(found.log_probabilities) == sorted(found.log_probabilities, reverse=True)


@settings(deadline=None)
@given(PATHS, st.integers(1, 3), st.sampled_from([0.5, 0.01]))
def test_what_is_not_looked_into_keeps_its_probability(paths: list[tuple[int, ...]], width: int, floor: float) -> None:
    (found,) = run(Trie.build(paths), sharpness=3.0, width=width, floor=floor)
    assert sorted(found.indices) == list(range(len(paths)))
    assert np.exp(found.log_probabilities).sum() == pytest.approx(1)
    assert 0 <= found.rest <= 1 + 1e-9
    assert 0 < found.mass <= 1


@settings(deadline=None, max_examples=30)
@given(PATHS, st.integers(1, 12))
def test_a_question_is_answered_among_others_as_alone(paths: list[tuple[int, ...]], questions: int) -> None:
    trie = Trie.build(paths)
    together = run(trie, questions, sharpness=3.0, width=3)
    (alone,) = run(trie, 1, sharpness=3.0, width=3)
    assert list(together[0].indices) == list(alone.indices)
    np.testing.assert_array_equal(together[0].log_probabilities, alone.log_probabilities)
    assert together[0][2:] == alone[2:]


def test_an_answer_that_begins_another_is_told_from_it_by_its_end_mark() -> None:
    trie = Trie.build([(5, END), (5, 6, END)])
    assert [trie.leaf(int(child)) for child in trie.children(1)] == [True, True]
    assert trie.depth == 2


def test_answers_of_equal_tokens_share_a_leaf_and_its_probability() -> None:
    trie = Trie.build([(5, END), (6, END), (5, END)])
    (found,) = run(trie)
    both = found.log_probabilities[np.isin(found.indices, [0, 2])]
    assert both[0] == both[1]
    assert list(found.indices[np.isin(found.indices, [0, 2])]) == [0, 2], "the first of the file comes first"


def test_a_single_answer_still_takes_the_step_that_shows_how_likely_its_first_token_is() -> None:
    (found,) = run(Trie.build([(4, 5, END)]))
    assert (found.steps, found.log_probabilities[0]) == (1, 0.0)
    assert found.mass == pytest.approx(
        float(np.exp(logits_after((0,), 1.0)[4]) / np.exp(logits_after((0,), 1.0)).sum())
    )


def test_declining_has_a_number_that_is_no_answers() -> None:
    trie = Trie.build([(4, END), (5, END)], declines=True)
    assert trie.answers == 1
    (found,) = run(trie)
    assert sorted(found.indices) == [DECLINING, 0]


def test_the_search_ends_where_one_answer_is_left() -> None:
    paths = [(first, second, *itertools.repeat(9, 100), END) for first in (2, 3) for second in (4, 5)]
    trie = Trie.build([*paths, (6, *itertools.repeat(9, 100), END)])
    assert trie.depth == 2
    assert len(trie.token) == 1 + 3 + 4


def test_a_trie_that_was_kept_is_the_same_again_and_in_the_same_bytes(tmp_path: Path) -> None:
    trie = Trie.build([(4, END), (5, 4, END), (5, 5, END)], declines=True)
    trie.save(tmp_path / "a.bin")
    trie.save(tmp_path / "b.bin")
    again = Trie.load(tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    assert (again.depth, again.answers, again.declines) == (2, 2, True)
    assert [list(again.below(node)) for node in range(5)] == [list(trie.below(node)) for node in range(5)]


def test_a_file_that_is_no_trie_is_named(tmp_path: Path) -> None:
    (tmp_path / "answers.bin").write_bytes(b"not one")
    with pytest.raises(RuntimeError, match=r"answers\.bin is not a trie of known answers"):
        Trie.load(tmp_path / "answers.bin")


def test_an_answer_whose_tokens_begin_anothers_is_refused() -> None:
    with pytest.raises(ValueError, match="begin those of another"):
        Trie.build([(4,), (4, 5)])
    with pytest.raises(ValueError, match="at least one token"):
        Trie.build([])
