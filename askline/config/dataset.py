"""Where the questions and answers come from, and how they are read and split."""

from typing import Literal

from pydantic import Field

from askline.config.section import Fraction, Section


class DatasetConfig(Section):
    """Where the questions and answers come from, and how they are split."""

    source: str = Field("sample", min_length=1)
    """A Hugging Face dataset id (owner/name), a file or folder, s3://… or https://…; "sample" is the biography that
    comes with askline."""
    revision: str | None = None
    """Branch, tag or commit of a Hub dataset; the default is the newest commit, which is recorded."""
    subset: str | None = None
    """Configuration (sub-folder or name) of a Hub dataset that has several."""
    format: Literal["auto", "csv", "tsv", "json", "jsonl", "parquet", "squad", "xlsx", "yaml", "markdown", "text"] = (
        "auto"
    )
    """Format of a file; "auto" goes by its name and content."""
    delimiter: str | None = Field(None, min_length=1, max_length=1)
    """Column separator of a CSV; the default is found from its content."""
    encoding: str | None = None
    """Text encoding, for example latin-1; the default is found from the bytes."""
    header: Literal["auto", "yes", "no"] = "auto"
    """Whether the first row of a CSV or sheet names its columns; "auto" goes by what stands in it."""
    sheet: str | None = None
    """Sheet of an Excel workbook; the default is the one with questions and answers."""
    language: str | None = None
    """Language to read of a file that holds the same in several, for example en."""
    question_column: str | None = None
    """Column with the questions; the default is found by its name, else by what it holds."""
    answer_column: str | None = None
    """Column with the answers; the default is found by its name, else by what it holds."""
    answer_columns: tuple[str, ...] = ()
    """Further columns that belong to the answer, such as a link; they are kept beside it."""
    group_column: str | None = None
    """Column that says which rows ask for the same fact; rows of one group never fall on two sides of a split."""
    split_by: Literal["auto", "group", "answer", "wording"] = "auto"
    """How to test a dataset without splits. "auto" trains every fact: of facts with several wordings some are held
    out, and a fact with one is asked for in other words that are made by rule. "wording" holds out real wordings only;
    "group" and "answer" hold out whole facts, which tells how the model answers about what it was never told."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the rows, or of the wordings of a fact, held out for the evaluation, where the dataset has no test
    split."""
    seed: int = Field(13, ge=0)
    """Seed of the split."""
    unanswerable: str = "I don't know"
    """The answer that marks a question as out of scope."""
    max_rejected: Fraction = 0.1
    """Share of rows that may be lost (blank, contradictory …) before the run stops; rows that only repeat another one
    do not count."""
