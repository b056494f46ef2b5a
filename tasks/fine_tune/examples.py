"""Turning rows into batches: the examples, the order in which they come, and the padding.

All of it is stateless. The sampler hands out pairs (epoch, index), and what is random about an example is seeded
from that pair, so that a run that resumes in the middle of an epoch sees exactly what it would have seen.
"""

import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from tasks.fine_tune.augment import looks_english, mix, vary
from tasks.fine_tune.recipe import Recipe
from tasks.qa.prompt import format_prompt
from tasks.qa.rows import Row

IGNORED = -100


class Examples(Dataset[dict[str, list[int]]]):
    """Training rows as token ids, with varied wording where the recipe says so.

    Parameters
    ----------
    rows
        Training rows.
    tokenizer
        T5 tokenizer.
    subwords
        SentencePiece model that cuts words in other ways; needed where the recipe samples subwords.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        tokenizer: Any,
        recipe: Recipe,
        *,
        prompt: str,
        max_source_tokens: int,
        max_target_tokens: int,
        unanswerable: str,
        subwords: Any = None,
    ) -> None:
        self._rows = list(rows)
        self._tokenizer = tokenizer
        self._recipe = recipe
        self._prompt = prompt
        self._max_source_tokens = max_source_tokens
        self._max_target_tokens = max_target_tokens
        self._english = looks_english([row.question for row in rows])
        self._invented = round(len(rows) * recipe.out_of_scope_share)
        #: What a row asks for: its group where it has one; rows of one answer may still ask for different things.
        self._facts = [(row.group or row.question, row.answer) for row in rows]
        self._wordings: dict[tuple[str, str], list[str]] = {}
        for row, fact in zip(rows, self._facts, strict=True):
            self._wordings.setdefault(fact, []).append(row.question)
        self._in_scope = [row for row in rows if row.in_scope]
        *self._answers, self._unanswerable = self._tokenize(
            [*(row.answer for row in rows), unanswerable], max_target_tokens
        )
        self._subwords = Subwords(subwords) if subwords is not None and recipe.subword_sampling else None
        asked = [format_prompt(prompt, row.question) for row in rows]
        self._questions = self._tokenize(asked, max_source_tokens)
        lengths = [len(ids) for ids in self._questions]
        typical = sorted(lengths)[len(lengths) // 2]
        #: Tokens of each example without variation, for grouping by length.
        self.lengths = lengths + [typical] * self._invented

    def __len__(self) -> int:
        return len(self._rows) + self._invented

    def __getitem__(self, key: tuple[int, int]) -> dict[str, list[int]]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[dict[str, list[int]]]:
        """Return the examples of (epoch, index) pairs; torch's loader asks for a batch at once.

        A tokenizer takes a batch of texts in a fraction of the time that it takes for each alone.
        """
        drawn = [self._draw(epoch, index) for epoch, index in keys]
        sources = self._encode([source for source, _ in drawn], self._max_source_tokens)
        targets = self._encode([target for _, target in drawn], self._max_target_tokens)
        return [{"input_ids": source, "labels": target} for source, target in zip(sources, targets, strict=True)]

    def _draw(self, epoch: int, index: int) -> tuple[str | list[int], str | list[int]]:
        """Return what is read and what is to be written, each as a text or, where that is known, as token ids."""
        rng = random.Random(f"{self._recipe.seed}/{epoch}/{index}")  # noqa: S311 - not a secret
        if index >= len(self._rows):
            question, labels = self._invent(rng), self._unanswerable
        else:
            question, labels = self._rows[index].question, self._answers[index]
            if self._recipe.augment:
                question = vary(question, rng, word_drop=self._recipe.word_drop, english=self._english)
                others = self._wordings[self._facts[index]]
                if self._rows[index].in_scope and len(others) > 1 and rng.random() < self._recipe.mixing:
                    other = vary(rng.choice(others), rng, word_drop=self._recipe.word_drop, english=self._english)
                    question = mix(question, other, rng)
        text = format_prompt(self._prompt, question)
        if self._subwords is not None:
            ids = self._subwords.encode(text, rng, self._recipe.subword_sampling)
            return [*ids[: self._max_source_tokens - 1], self._tokenizer.eos_token_id], labels
        as_it_is = index < len(self._rows) and question == self._rows[index].question
        return self._questions[index] if as_it_is else text, labels

    def _encode(self, texts: Sequence[str | list[int]], at_most: int) -> list[list[int]]:
        """Return the token ids of each, of those that are still texts by the tokenizer."""
        new = iter(self._tokenize([text for text in texts if isinstance(text, str)], at_most))
        return [next(new) if isinstance(text, str) else list(text) for text in texts]

    def _tokenize(self, texts: Sequence[str], at_most: int) -> list[list[int]]:
        if not texts:
            return []
        found = self._tokenizer(list(texts), truncation=True, max_length=at_most)["input_ids"]
        return [list(ids) for ids in found]

    def _invent(self, rng: random.Random) -> str:
        """Make a question that nothing in the dataset answers: the frame of one with the words of others."""
        frame = rng.choice(self._in_scope or self._rows).question.split()
        other = rng.choice(self._in_scope or self._rows).question.split()
        return " ".join(frame[: max(1, len(frame) // 2)] + other[len(other) // 2 :])


class Subwords:
    """Cuts each word into one of its few most likely sequences of pieces, drawn by their likelihood."""

    def __init__(self, processor: Any, best: int = 8) -> None:
        self._processor = processor
        self._best = best
        self._options = lru_cache(maxsize=100_000)(self._find)

    def encode(self, text: str, rng: random.Random, share: float) -> list[int]:
        """Return piece ids of ``text``, a ``share`` of whose words is not cut in the most likely way."""
        ids: list[int] = []
        for word in text.split():
            options = self._options(word)
            ids += options[0] if len(options) == 1 or rng.random() >= share else rng.choice(options[1:])
        return ids

    def _find(self, word: str) -> list[list[int]]:
        options = self._processor.nbest_encode(word, nbest_size=self._best, out_type=int)
        return [list(ids) for ids in options]


class LengthGroupedSampler(Sampler[tuple[int, int]]):
    """Hands out (epoch, index) in an order that puts examples of like length together and is the same in every run.

    The trainer's own sampler draws from a generator that a resumed run cannot rewind to the right place.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = random.Random(f"{self._seed}/order/{self._epoch}")  # noqa: S311 - not a secret
        indices = list(range(len(self._lengths)))
        rng.shuffle(indices)
        # Sorting only within a window keeps batches mixed; the longest batch of a window comes wherever it falls.
        window = 8 * self._batch_size
        batches = []
        for start in range(0, len(indices), window):
            near = sorted(indices[start : start + window], key=lambda index: self._lengths[index])
            batches += [near[i : i + self._batch_size] for i in range(0, len(near), self._batch_size)]
        # A short batch must come last, or the loader would cut all that follow in other places.
        short = [batch for batch in batches if len(batch) < self._batch_size]
        batches = [batch for batch in batches if len(batch) == self._batch_size]
        rng.shuffle(batches)
        for batch in batches + short:
            for index in batch:
                yield self._epoch, index


def collate(features: Sequence[dict[str, list[int]]], pad: int = 0) -> dict[str, torch.Tensor]:
    """Pad to the longest of the batch.

    ``input_ids`` and ``attention_mask`` are (batch, source tokens), ``labels`` are (batch, target tokens).
    """
    source = max(len(feature["input_ids"]) for feature in features)
    target = max(len(feature["labels"]) for feature in features)
    ids = [feature["input_ids"] + [pad] * (source - len(feature["input_ids"])) for feature in features]
    mask = [[1] * len(f["input_ids"]) + [0] * (source - len(f["input_ids"])) for f in features]
    labels = [feature["labels"] + [IGNORED] * (target - len(feature["labels"])) for feature in features]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask), "labels": torch.tensor(labels)}
