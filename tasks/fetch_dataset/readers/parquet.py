"""Parquet, read by pyarrow."""

from pathlib import Path

from askline.errors import DatasetFormatError
from tasks.fetch_dataset.tables import SourceRow, Table


def read_parquet(path: Path, name: str) -> Table:
    """Read every column but binary ones: images and audio would only fill the memory.

    Raises
    ------
    DatasetFormatError
        If it is damaged.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(path) as file:
            columns = [field.name for field in file.schema_arrow if not pa.types.is_binary(field.type)]
            items = file.read(columns=columns).to_pylist()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DatasetFormatError(f"{name} is not a readable Parquet file: {error}") from None
    rows = [SourceRow(name, number, None, item) for number, item in enumerate(items, start=1)]
    return Table(name, "parquet", tuple(columns), rows, shape="Parquet table", why="its first bytes")
