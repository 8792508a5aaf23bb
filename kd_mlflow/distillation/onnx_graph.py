"""A student as an ONNX graph made of its own arrays, and what onnxruntime makes of it.

onnx and onnxruntime are the package's extra ``onnx``; they are imported where they are used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_mlflow.distillation.footprint import median_ms
from kd_mlflow.distillation.student_module import StudentModule
from kd_mlflow.errors import ConfigError, TrainingError
from kd_mlflow.serving.scoring import Network

INPUT, OUTPUT = "columns", "probabilities"
"""Names of the graph's input, a float32 matrix (n, columns), and output, (n, classes)."""

OPSET, IR_VERSION = 17, 8
"""Versions of the operators and of the file: those of onnxruntime 1.13 (2022) and later."""

TOLERANCE = 1e-6
"""How far a probability may be from the served model's."""


@dataclass(frozen=True, kw_only=True)
class OnnxStudent:
    """A student's graph as bytes, how far its answers are off, and how long one row takes."""

    content: bytes
    max_difference: float
    latency_ms: float

    @property
    def metrics(self) -> dict[str, float]:
        """What is logged of it."""
        return {"onnx_max_difference": self.max_difference, "onnx_latency_ms": self.latency_ms}


def require_onnx() -> None:
    """Raise ConfigError where the extra is not installed."""
    if absent := [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]:
        raise ConfigError(
            f"export=onnx needs {' and '.join(absent)}, not installed here; "
            "pip install 'kd-mlflow[onnx]', or leave export at none"
        )


def onnx_student(module: StudentModule, encoded: NDArray[np.float32]) -> OnnxStudent:
    """Export a student and compare it with the served one.  Shape: encoded (n, columns).

    Raises TrainingError where a probability is off by more than the tolerance.
    """
    import onnxruntime

    content, options = graph_of(module), onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # handing so few numbers to a thread takes longer than they do
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    answers = session.run(None, {INPUT: encoded})[0]
    apart = np.abs(answers - Network(module.arrays).probabilities(encoded))
    difference = float(apart.max(initial=0.0))
    if not difference <= TOLERANCE:
        raise TrainingError(
            f"the ONNX graph is off by {difference:.1e} of the student's probabilities, "
            f"{TOLERANCE:.0e} being allowed; leave export at none"
        )
    return OnnxStudent(
        content=content,
        max_difference=difference,
        latency_ms=median_ms(lambda: session.run(None, {INPUT: encoded[:1]})),
    )


def graph_of(module: StudentModule) -> bytes:
    """Write a student as an ONNX file: encoded columns in, probabilities out.

    The file names columns and classes in its metadata, as JSON, and the threshold or weights by
    which the served model predicts a class.
    """
    import onnx

    graph, arrays = _Graph(), module.arrays
    inputs = _scaled(graph, arrays)
    layers = Network(arrays).layers
    if module.lookup is not None:
        inputs = graph.add("Concat", inputs, _bins(graph, arrays), axis=1)
        layers[0] = (np.concatenate([layers[0][0], _bin_weights(arrays)]), layers[0][1])
    for i, (weight, bias) in enumerate(layers):
        hidden = graph.add("Relu", inputs) if i else inputs
        inputs = graph.add("Gemm", hidden, graph.keep(weight), graph.keep(bias))
    graph.add("Softmax", inputs, axis=1, output=OUTPUT)
    encoding = module.encoding
    shapes = ((INPUT, len(encoding.columns)), (OUTPUT, len(encoding.classes)))
    given, answered = (
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", width])]
        for name, width in shapes
    )
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "student", given, answered, graph.kept),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="kd_mlflow",
    )
    names = {"columns": [c.name for c in encoding.columns], "classes": list(encoding.classes)}
    if encoding.threshold is not None:
        names["threshold"] = encoding.threshold
    onnx.helper.set_model_props(model, {name: json.dumps(v) for name, v in names.items()})
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


class _Graph:
    """Nodes and constants of a graph under way; names are numbers."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.kept: list[Any] = []

    def keep(self, values: NDArray[Any]) -> str:
        """Add a constant; return its name."""
        import onnx

        name = f"constant_{len(self.kept)}"
        self.kept.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: int) -> str:
        """Add a node; return the name of its output."""
        import onnx

        name = output or f"value_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def columns(self, places: NDArray[Any]) -> str:
        """Add a choice of the input's columns."""
        return self.add("Gather", INPUT, self.keep(places), axis=1)

    def filled(self, places: NDArray[Any], median: NDArray[Any]) -> str:
        """Add a choice of the input's columns with medians in their gaps."""
        numbers = self.columns(places)
        return self.add("Where", self.add("IsNaN", numbers), self.keep(median), numbers)


def _scaled(graph: _Graph, arrays: dict[str, NDArray[Any]]) -> str:
    """Add what ``Network`` scales: numbers, then gap indicators, then one-hot codes."""
    import onnx

    own = {name.removeprefix("scaler."): values for name, values in arrays.items()}
    z = graph.filled(own["numbers"], own["median"])
    for operator, name in (("Max", "low"), ("Min", "high"), ("Sub", "mean"), ("Div", "scale")):
        z = graph.add(operator, z, graph.keep(own[name]))
    if own["soft"].any():
        bent = graph.add("Mul", z, graph.keep(own["soft"]))
        square = graph.add("Mul", bent, bent)
        length = graph.add("Sqrt", graph.add("Add", square, graph.keep(np.ones(1, np.float32))))
        z = graph.add("Div", z, length)
    parts = [z]
    if own["indicators"].size:
        gaps = graph.add("IsNaN", graph.columns(own["indicators"]))
        parts.append(graph.add("Cast", gaps, to=onnx.TensorProto.FLOAT))
    if own["codes"].size:
        same = graph.add("Equal", graph.columns(own["one_hot"]), graph.keep(own["codes"]))
        parts.append(graph.add("Cast", same, to=onnx.TensorProto.FLOAT))
    return graph.add("Concat", *parts, axis=1)


def _bins(graph: _Graph, arrays: dict[str, NDArray[Any]]) -> str:
    """Add how far each value has come through each of its bins, from 0 to 1."""
    edges, counts = arrays["lookup.edges"], arrays["lookup.last"][:, 0] + 1
    low = np.concatenate([row[:n] for row, n in zip(edges, counts, strict=True)])
    high = np.concatenate([row[1 : n + 1] for row, n in zip(edges, counts, strict=True)])
    values = graph.filled(arrays["lookup.numbers"], arrays["lookup.median"])
    column = np.repeat(np.arange(len(counts)), counts)
    each = graph.add("Gather", values, graph.keep(column), axis=1)
    come = graph.add("Sub", each, graph.keep(low))
    come = graph.add("Div", come, graph.keep(high - low))
    zero, one = (graph.keep(np.full(1, bound, np.float32)) for bound in (0, 1))
    return graph.add("Min", graph.add("Max", come, zero), one)


def _bin_weights(arrays: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The first layer's weights on bins, of its values at the edges.  Shape: (bins, d_hidden)."""
    at_edges, starts = arrays["lookup.at_edges"], arrays["lookup.start"][1:, 0]
    parts = np.split(at_edges.astype(np.float64), starts)
    return np.concatenate([np.diff(p, axis=0, prepend=0) for p in parts]).astype(np.float32)
