"""Which names say that a file holds questions and answers."""

FORMAT_BY_SUFFIX = {
    ".csv": "csv",
    ".psv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
    ".xlsm": "xlsx",
    ".yml": "yaml",
    ".yaml": "yaml",
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".zip": "zip",
}
DATA_SUFFIXES = frozenset(
    suffix for suffix, kind in FORMAT_BY_SUFFIX.items() if kind not in ("markdown", "text", "zip")
)
"""Of a folder's files, those that are data for sure; text and Markdown are taken where there is nothing else."""
SPLIT_SUFFIXES = frozenset(FORMAT_BY_SUFFIX) - {".xlsx", ".xlsm", ".yml", ".yaml", ".md", ".markdown", ".zip"}
"""Those that the ``datasets`` library knows, whose rules say which file belongs to which split."""
SUFFIXES = ", ".join(sorted(FORMAT_BY_SUFFIX))
"""For messages."""
READS = "CSV, TSV, JSON, JSON Lines, Parquet, Excel (.xlsx), YAML, Markdown, text with Q: and A:, and chatbots' exports"
"""For messages."""
