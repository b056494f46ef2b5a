"""The trie of the known answers' tokens, and the search through it: which of them the model means, and how surely.

A decoder that may only write known answers (De Cao et al. 2021, https://arxiv.org/abs/2010.00904) need not write them:
once no other answer can follow, it is clear which one it is. So of each answer only as many tokens are kept as tell it
from the others, two or three in files of questions and answers, and there the search ends.

At each node the probabilities of the tokens that lead on are made to add up to one; the product along a path is the
answer's probability. The engines compute the logits, :class:`Search` says of which rows, and gives the posterior.
Needs numpy alone.
"""

from bisect import bisect_right
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: Most nodes of one question that are looked into side by side.
WIDTH = 8
#: A node whose probability is a smaller share of the likeliest one's is not looked into: its answers share it evenly.
FLOOR = 0.01
#: Stands for the text for declining among the numbers of the answers.
DECLINING = -1
_FIELDS = ("token", "first", "low", "high", "order")


class Posterior(NamedTuple):
    """Which known answers a question may mean, the most probable first."""

    indices: Any
    """Of the answers, int64; -1 stands for declining."""
    log_probabilities: Any
    """Natural logarithms, float64, as long as ``indices``."""
    rest: float
    """Probability of all nodes that were not looked into, whose answers share it evenly."""
    mass: float
    """Probability of the best answer's kept tokens among *all* tokens: small where the model would say something
    else."""
    steps: int
    """Steps of the decoder."""

    @property
    def token_probability(self) -> float:
        """The mean probability of one of the best answer's kept tokens, as free decoding gives of a whole answer."""
        return float(self.mass ** (1 / max(1, self.steps)))


class Trie:
    """Nodes in breadth-first order, so that a node's children stand side by side; node 0 is the root.

    Parameters
    ----------
    token
        The token that leads to each node, int32 (nodes); of the root, -1.
    first
        Where each node's children begin, int32 (nodes + 1); they end where the next node's begin.
    low, high
        Which stretch of ``order`` each node's answers are, int32 (nodes).
    order
        The answers' numbers by their tokens, int32 (answers, and one more where it ``declines``).
    declines
        Whether the last number stands for declining and not for an answer.
    """

    def __init__(self, token: Any, first: Any, low: Any, high: Any, order: Any, *, declines: bool) -> None:
        self.token, self.first, self.low, self.high, self.order = token, first, low, high, order
        self.declines = declines
        self.depth = self._depth()

    @property
    def answers(self) -> int:
        """How many known answers there are."""
        return len(self.order) - self.declines

    def children(self, node: int) -> Any:
        """Return the numbers of a node's children, by their tokens; none of a leaf."""
        return np.arange(self.first[node], self.first[node + 1])

    def leaf(self, node: int) -> bool:
        """Say whether no token is left that would tell the node's answers apart."""
        return bool(self.first[node] == self.first[node + 1])

    def below(self, node: int) -> Any:
        """Return the numbers of the answers that a node leads to."""
        return self.order[self.low[node] : self.high[node]]

    def search(self, questions: int, *, width: int = WIDTH, floor: float = FLOOR) -> "Search":
        """Begin the search of so many questions; an engine needs nothing else of this module."""
        return Search(self, questions, width=width, floor=floor)

    def _depth(self) -> int:
        depth, end = 0, 1
        while int(self.first[end]) > end:  # the level that ends there has children
            end, depth = int(self.first[end]), depth + 1
        return depth

    @classmethod
    def build(cls, paths: Sequence[Sequence[int]], *, declines: bool = False) -> "Trie":
        """Return the trie of the answers whose tokens these are, each with its end mark.

        Answers of equal tokens share a leaf. At least one token is kept of each, so that there is a step in which the
        model can be asked.

        Parameters
        ----------
        paths
            Tokens of each answer; of an answer that begins another the end mark tells it apart.
        declines
            Whether the last path is that of the text for declining.

        Raises
        ------
        ValueError
            If there is no answer, or one is empty or begins another.
        """
        if not paths or not all(paths):
            raise ValueError("a trie needs answers, each of at least one token")
        order = sorted(range(len(paths)), key=lambda index: (paths[index], index))
        ordered = [paths[index] for index in order]
        token, first, low, high = [-1], [1], [0], [len(ordered)]
        depths = [0]
        node = 0
        while node < len(token):
            start, end, depth = low[node], high[node], depths[node]
            if depth == 0 or ordered[start] != ordered[end - 1]:
                while start < end:
                    if len(ordered[start]) <= depth:
                        raise ValueError(f"the tokens of answer {order[start]} begin those of another answer")
                    value = ordered[start][depth]
                    stop = bisect_right(ordered, value, start, end, key=itemgetter(depth))
                    for values, one in zip((token, low, high, depths), (value, start, stop, depth + 1), strict=True):
                        values.append(one)
                    start = stop
            node += 1
            first.append(len(token))
        arrays = [np.array(values, np.int32) for values in (token, first, low, high, order)]
        return cls(*arrays, declines=declines)

    def save(self, path: Path) -> None:
        """Write the trie as int32, little end first: its nodes, its answers, whether it declines, and its arrays."""
        head = np.array([len(self.token), len(self.order), self.declines])
        arrays = [head, *(getattr(self, name) for name in _FIELDS)]
        path.write_bytes(np.concatenate(arrays).astype("<i4").tobytes())

    @classmethod
    def load(cls, path: Path) -> "Trie":
        """Read what :meth:`save` wrote.

        Raises
        ------
        RuntimeError
            If the file is missing, or not a whole trie.
        """
        try:
            values = np.frombuffer(path.read_bytes(), "<i4").astype(np.int32)
            nodes, answers, declines = (int(value) for value in values[:3])
        except (OSError, ValueError) as error:
            raise RuntimeError(f"{path} is not a trie of known answers: {error}") from error
        sizes = np.array([nodes, nodes + 1, nodes, nodes, answers])
        if min(nodes, answers) < 1 or len(values) != 3 + sizes.sum():
            raise RuntimeError(f"{path} is not a trie of known answers: it has {len(values)} numbers")
        return cls(*np.split(values[3:], np.cumsum(sizes)[:-1]), declines=bool(declines))


class _Branches(NamedTuple):
    """Nodes that the search has reached for one question; arrays of the same length."""

    node: Any
    log_probability: Any
    mass: Any
    """Natural logarithm of the path's probability among all tokens."""
    row: Any
    """Which row of the last step each one follows."""

    def take(self, places: Any) -> "_Branches":
        return _Branches(*(values[places] for values in self))


class Search:
    """The search for several questions at once, step by step, each step deeper by one token.

    ::

        search = Search(trie, questions=2)
        while len(search.questions):
            parents, tokens = search.parents, search.tokens  # (rows): which row of the step before, and what it wrote
            search.step(logits, log_normalisers)             # (rows, vocabulary), (rows)
        search.posteriors(k=4)

    Each question's search is its own: no other question changes what is looked into, or which answer is found.
    """

    def __init__(self, trie: Trie, questions: int, *, width: int = WIDTH, floor: float = FLOOR) -> None:
        self._trie, self._width, self._floor = trie, width, float(np.log(floor))
        nothing = np.zeros(1)
        self._open = [_Branches(np.zeros(1, np.int64), nothing, nothing, np.array([n])) for n in range(questions)]
        self._closed: list[list[_Branches]] = [[] for _ in range(questions)]
        self._steps = [0] * questions

    @property
    def questions(self) -> Any:
        """The question of each row of the next step, int64; empty once all are answered."""
        return np.repeat(np.arange(len(self._open)), [len(branches.node) for branches in self._open])

    @property
    def parents(self) -> Any:
        """Which row of the last step each row of the next one follows, int64; before the first step, the question."""
        return np.concatenate([branches.row for branches in self._open])

    @property
    def tokens(self) -> Any:
        """The last token of each row of the next step, int64; -1 before the first step."""
        return self._trie.token[np.concatenate([branches.node for branches in self._open])].astype(np.int64)

    def postpone(self, questions: Sequence[int]) -> None:
        """Leave these questions out of the next steps; their posteriors then know only what was found until here."""
        for number in questions:
            self._closed[number].append(self._open[number])
            self._open[number] = self._open[number].take(slice(0))

    def step(self, logits: Any, log_normalisers: Any) -> None:
        """Go one token deeper.

        Parameters
        ----------
        logits
            Of every row, (rows, vocabulary).
        log_normalisers
            Logarithm of the sum of exp of each row's logits, (rows).
        """
        row = 0
        for number, branches in enumerate(self._open):
            count = len(branches.node)
            if not count:
                continue
            found = [
                self._followers(branches, place, logits[row + place], float(log_normalisers[row + place]), row + place)
                for place in range(count)
            ]
            row += count
            self._steps[number] += 1
            reached = _Branches(*(np.concatenate(values) for values in zip(*found, strict=True)))
            # By probability and, of equal ones, by the answers' tokens.
            reached = reached.take(np.lexsort((reached.node, -reached.log_probability)))
            goes_on = self._trie.first[reached.node] < self._trie.first[reached.node + 1]
            goes_on &= reached.log_probability >= reached.log_probability[0] + self._floor
            goes_on[np.flatnonzero(goes_on)[self._width :]] = False
            self._open[number] = reached.take(goes_on)
            self._closed[number].append(reached.take(~goes_on))

    def _followers(self, branches: _Branches, place: int, logits: Any, log_normaliser: float, row: int) -> _Branches:
        children = self._trie.children(int(branches.node[place]))
        own = logits[self._trie.token[children]].astype(np.float64)
        highest = own.max()
        among_children = own - (highest + np.log(np.exp(own - highest).sum()))
        return _Branches(
            children,
            among_children + branches.log_probability[place],
            own - log_normaliser + branches.mass[place],
            np.full(len(children), row),
        )

    def posteriors(self, k: int | None = None) -> list[Posterior]:
        """Return the ``k`` most probable answers of each question; all of them by default."""
        return [self._posterior(number, k) for number in range(len(self._open))]

    def _posterior(self, number: int, k: int | None) -> Posterior:
        trie, size = self._trie, len(self._trie.order)
        found = _Branches(*(np.concatenate(values) for values in zip(*self._closed[number], strict=True)))
        # The nodes at which the search ended part the answers among them.
        found = found.take(np.argsort(trie.low[found.node]))
        counts = trie.high[found.node] - trie.low[found.node]
        logs, ends = np.empty(size), np.empty(size, np.int64)
        logs[trie.order] = np.repeat(found.log_probability - np.log(counts), counts)
        ends[trie.order] = np.repeat(np.arange(len(counts)), counts)
        indices = np.argsort(-logs, kind="stable")[:k]
        inner = trie.first[found.node] < trie.first[found.node + 1]
        rest = float(np.exp(found.log_probability[inner]).sum())
        mass = float(np.exp(min(found.mass[ends[indices[0]]], 0.0)))
        named = np.where(indices < trie.answers, indices, DECLINING)
        return Posterior(named, logs[indices], rest, mass, self._steps[number])
