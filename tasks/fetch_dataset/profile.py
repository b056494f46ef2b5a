"""What a dataset looks like in numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tasks.fetch_dataset.cleaning import Cleaned, Example
from tasks.fetch_dataset.tables import Table

_QUANTILES = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
_BATCH = 1000


class Tokenizer(Protocol):
    """What a Hugging Face tokenizer does with a list of texts."""

    def __call__(self, text: list[str], /) -> Mapping[str, Any]:
        """Return a mapping whose ``input_ids`` holds one list of token ids a text."""
        ...


def quantiles(values: Sequence[int]) -> dict[str, int]:
    """Return minimum, median, upper percentiles and maximum; each is one of the values (nearest rank)."""
    if not values:
        return {}
    ranked = sorted(values)
    return {name: ranked[max(math.ceil(share * len(ranked)) - 1, 0)] for name, share in _QUANTILES.items()}


def profile_dataset(
    cleaned: Cleaned, tables: Mapping[str, Sequence[Table]], *, prompt: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the profile that is kept as ``profile.json``.

    Parameters
    ----------
    cleaned
        The splits and the rejected rows.
    tables
        The files read, by split.
    prompt
        The prompt template, whose filled length is measured too.
    facts
        Further entries: the columns, how it was split, the warnings.
    """
    return {
        **facts,
        "prompt": prompt,
        "rows_read": sum(len(table.rows) for read in tables.values() for table in read),
        "rejected": len(cleaned.lost),
        "rejected_by_reason": cleaned.reasons,
        "duplicates": cleaned.reasons.get("duplicate", 0),
        "conflicts": cleaned.reasons.get("conflicting answer", 0),
        "splits": {split: _profile_split(examples, prompt) for split, examples in cleaned.splits.items()},
        "files": [
            {
                "file": table.file,
                "split": split,
                "format": table.format,
                "encoding": table.encoding,
                "delimiter": table.delimiter,
                "columns": list(table.columns),
                "rows": len(table.rows),
            }
            for split, read in tables.items()
            for table in read
        ],
    }


def _profile_split(examples: Sequence[Example], prompt: str) -> dict[str, Any]:
    questions = [example.question for example in examples]
    answers = [example.answer for example in examples]
    around = len(prompt) - len("{question}")
    return {
        "rows": len(examples),
        "in_scope": sum(example.in_scope for example in examples),
        "out_of_scope": sum(not example.in_scope for example in examples),
        "made": sum(example.made_by is not None for example in examples),
        "distinct_answers": len({example.answer_key for example in examples}),
        "groups": len({example.group for example in examples if example.group is not None}),
        "question_characters": quantiles([len(text) for text in questions]),
        "question_words": quantiles([len(text.split()) for text in questions]),
        "prompt_characters": quantiles([len(text) + around for text in questions]),
        "answer_characters": quantiles([len(text) for text in answers]),
        "answer_words": quantiles([len(text.split()) for text in answers]),
    }


def profile_tokens(
    questions: Sequence[str],
    answers: Sequence[str],
    tokenizer: Tokenizer,
    *,
    prompt: str,
    max_source_tokens: int,
    max_target_tokens: int,
) -> dict[str, Any]:
    """Return lengths in tokens, and the share of prompts and answers that would be truncated.

    Parameters
    ----------
    questions, answers
        Texts of one split.
    tokenizer
        A Hugging Face tokenizer, or anything that is called like one; special tokens that it adds count.
    prompt
        The prompt template with ``{question}`` in it.
    max_source_tokens, max_target_tokens
        Longest prompt and answer, in tokens.

    Returns
    -------
    dict
        ``source_tokens`` and ``target_tokens`` (quantiles), ``source_truncated`` and ``target_truncated`` (shares
        between 0 and 1).
    """
    source = _token_lengths([prompt.replace("{question}", question) for question in questions], tokenizer)
    target = _token_lengths(list(answers), tokenizer)
    return {
        "source_tokens": quantiles(source),
        "target_tokens": quantiles(target),
        "source_truncated": _share_above(source, max_source_tokens),
        "target_truncated": _share_above(target, max_target_tokens),
    }


def _token_lengths(texts: list[str], tokenizer: Tokenizer) -> list[int]:
    batches = (tokenizer(texts[start : start + _BATCH])["input_ids"] for start in range(0, len(texts), _BATCH))
    return [len(ids) for batch in batches for ids in batch]


def _share_above(lengths: list[int], limit: int) -> float:
    return sum(length > limit for length in lengths) / len(lengths) if lengths else 0.0
