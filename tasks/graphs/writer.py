"""Writing an ONNX graph node by node, over weights that stand in a file beside it and are mapped into memory."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from askline.errors import PackageError
from tasks.graphs.quantise import quantise_columns, quantise_rows

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

MICROSOFT = "com.microsoft"
#: Read by ONNX Runtime 1.16 and later.
_OPSET, _IR_VERSION = 17, 8
#: Weights begin at a multiple of a memory page, since they are mapped.
_ALIGNMENT = 4096
#: Up to this many bytes a weight stands in the graph itself.
_INLINE = 1024


@dataclass
class Graph:
    """A graph in the making, over weights that others may share."""

    weights: "Weights"
    int8: bool
    nodes: list[Any] = field(default_factory=list)
    initializers: list[Any] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    def add(
        self, operator: str, inputs: list[str], *, outputs: int | list[str] = 1, domain: str = "", **attributes: Any
    ) -> Any:
        """Add a node, and return its output's name, or several."""
        from onnx import helper

        number = len(self.nodes)
        names = outputs if isinstance(outputs, list) else [f"v{number}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return names[0] if len(names) == 1 else names

    def weight(self, name: str, value: "Array") -> str:
        """Return the name of a weight, which is added once."""
        if name not in self.known:
            self.known.add(name)
            self.initializers.append(self.weights.tensor(name, value))
        return name

    def constant(self, name: str, value: Any, dtype: Any = np.int64) -> str:
        """Return the name of a constant, which is added once."""
        return self.weight(name, np.asarray(value, dtype))

    def linear(self, values: str, name: str, *parts: "Array", bias: "Array | None" = None) -> str:
        """Multiply by weights of shape (outputs, inputs), several of them side by side, and add what is not 0."""
        matrix = np.concatenate([part.T for part in parts], axis=1)
        product = self._in_bytes(values, name, matrix) if self.int8 else self._plain(values, name, matrix)
        return product if bias is None else str(self.add("Add", [product, self.weight(f"{name}.bias", bias)]))

    def _plain(self, values: str, name: str, matrix: "Array") -> str:
        return str(self.add("MatMul", [values, self.weight(name, matrix)]))

    def _in_bytes(self, values: str, name: str, matrix: "Array") -> str:
        """Quantise each row by its own largest value, multiply in bytes, and scale each row back.

        ``DynamicQuantizeMatMul`` takes one range for the whole tensor, so that a question's answer would depend on the
        questions beside it, and on how much it is padded. This takes six small nodes more, about a twentieth of the
        time, and rounds less.
        """
        quantised, scales = quantise_columns(matrix)
        smallest = self.constant("smallest_range", 1e-12, np.float32)
        largest = self.add("ReduceMax", [self.add("Abs", [values])], axes=[-1], keepdims=1)
        largest = self.add("Max", [largest, smallest])
        step, middle = self.constant("step", 1 / 127, np.float32), self.constant("middle", 128, np.uint8)
        rows = self.add("QuantizeLinear", [self.add("Div", [values, largest]), step, middle])
        weights = [self.weight(name, quantised), step, self.weight(f"{name}.scale", scales), middle]
        product = self.add("MatMulIntegerToFloat", [rows, *weights], domain=MICROSOFT)
        return str(self.add("Mul", [product, largest]))

    def embed(self, ids: str, table: "Array") -> str:
        """Look up rows of the embedding; a graph has one."""
        if not self.int8:
            return str(self.add("Gather", [self.weight("embedding", table), ids]))
        quantised, scales = quantise_rows(table)
        rows = self.add("Gather", [self.weight("embedding", quantised), ids])
        scale = self.add("Gather", [self.weight("embedding.scale", scales), ids])
        return str(self.add("Mul", [self.add("Cast", [rows], to=1), scale]))


class Weights:
    """The file that graphs read their larger weights from; the same name stands there once."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._stream = path.open("wb")
        self._places: dict[str, tuple[int, int]] = {}

    def tensor(self, name: str, value: "Array") -> Any:
        """Return a weight as a graph names it, small ones with their values."""
        from onnx import TensorProto, helper, numpy_helper

        value = np.ascontiguousarray(value)
        if value.nbytes <= _INLINE:
            return numpy_helper.from_array(value, name)
        if name not in self._places:
            self._stream.write(b"\0" * (-self._stream.tell() % _ALIGNMENT))
            self._places[name] = (self._stream.tell(), value.nbytes)
            self._stream.write(value.tobytes())
        offset, length = self._places[name]
        tensor = TensorProto(name=name, dims=value.shape, data_type=helper.np_dtype_to_tensor_dtype(value.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", self._name), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=text)
        return tensor

    def close(self) -> None:
        """Finish the file."""
        self._stream.close()


class State:
    """A checkpoint's tensors by name, in float32, read one at a time.

    Parameters
    ----------
    tensors
        What ``safetensors.safe_open`` opened.
    kind
        What the checkpoint should be, for the message where a tensor is missing.
    """

    def __init__(self, tensors: Any, kind: str = "T5") -> None:
        self._tensors, self._kind = tensors, kind

    def __getitem__(self, name: str) -> "Array":
        try:
            tensor: Array = self._tensors.get_tensor(name)
        except Exception as error:
            raise PackageError(f"the checkpoint has no tensor {name!r}; is it a {self._kind}? ({error})") from error
        if not np.isfinite(tensor).all():
            raise PackageError(
                f"the checkpoint's tensor {name!r} holds values that are not finite: the training diverged; train "
                "again with a lower learning rate"
            )
        return tensor.astype(np.float32)


def declared(name: str, kind: int, shape: list[Any]) -> Any:
    """Return an input or output of a graph; ``kind`` is one of ``onnx.TensorProto``."""
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, shape)


def write_graph(path: Path, graph: Graph, inputs: list[Any], outputs: list[Any]) -> None:
    """Write a graph whose inputs and outputs are :func:`declared`; the same graph gives the same bytes."""
    from onnx import helper

    made = helper.make_graph(graph.nodes, path.stem, inputs, outputs, graph.initializers)
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(MICROSOFT, 1)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="askline")
    path.write_bytes(model.SerializeToString(deterministic=True))
