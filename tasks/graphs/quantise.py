"""Weights as signed bytes: symmetric, one scale to an output or a row."""

from typing import TYPE_CHECKING, Any

import numpy as np

from askline.errors import PackageError

if TYPE_CHECKING:
    import numpy.typing as npt

#: Largest sum of two neighbouring weights of a column. A processor with AVX2 but without VNNI multiplies unsigned by
#: signed bytes and adds two products in 16 bits: 255 × 128 is the largest that fits, more would be cut off without
#: a word. (Intel's manual, VPMADDUBSW.) Scaling for the pair costs less precision than seven bits for each would.
_PAIR = 128
_LARGEST = 127
#: Stands for the scale of a column without any weight.
_TINY = np.float32(1e-12)


def quantise_columns(matrix: "npt.NDArray[np.float32]") -> "tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]":
    """Return the matrix (inputs × outputs) in bytes, and the scale of each output.

    Raises
    ------
    PackageError
        If a weight is not finite, or so large that two of them are not.
    """
    largest = np.abs(matrix).max(axis=0) / _LARGEST
    with np.errstate(over="ignore"):
        pairs = np.abs(matrix[:-1] + matrix[1:]).max(axis=0) if len(matrix) > 1 else largest
    # Two roundings may each add a half.
    scales = np.maximum(np.maximum(largest, pairs / (_PAIR - 1)), _TINY).astype(np.float32)
    return _round(matrix, scales), scales


def quantise_rows(matrix: "npt.NDArray[np.float32]") -> "tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]":
    """Return the matrix in bytes, and the scale of each row, of shape (rows, 1).

    Raises
    ------
    PackageError
        If a weight is not finite.
    """
    scales = np.maximum(np.abs(matrix).max(axis=1, keepdims=True) / _LARGEST, _TINY).astype(np.float32)
    return _round(matrix, scales), scales


def _round(matrix: Any, scales: Any) -> "npt.NDArray[np.int8]":
    # What is not finite in a weight is not in its scale either.
    if not np.isfinite(scales).all():
        raise PackageError(
            "the checkpoint has weights that are not finite, or too large to be put into bytes: the training diverged; "
            "train again with a lower learning rate"
        )
    rounded: npt.NDArray[np.int8] = np.clip(np.rint(matrix / scales), -_LARGEST, _LARGEST).astype(np.int8)
    return rounded
