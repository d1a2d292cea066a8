"""A deployed network as plain operations on (C, H, W) values, and numpy that runs them.

What the forms *c* and *codes* are written from, and what the board's page runs: no torch, no graph
of another's. Every fp32 operation rounds once, in the order of docs/arithmetic.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

import numpy as np
from numpy.typing import NDArray

from lsqctl.deploy.runtime import Array
from lsqctl.run import JsonObject

Values = NDArray[np.float32]
"""One value for all images of a batch: (B, C, H, W); a vector is (B, C, 1, 1)."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One step: ``kind`` of ``inputs`` (numbers of earlier values; 0 is the image).

    ``shape`` (C, H, W) is that of its output, and ``settings`` what the kind needs beside it:

    * ``add`` of two values, or of one and the tensor ``constant``; ``sub``, ``mul``, ``div`` too;
      the second may have one number a channel
    * ``clamp`` to ``low``..``high``, either of them None
    * ``quantize``: step, offset, low, high of a grid
    * ``layer``: ``name``, its grid as above, ``zero_code``, ``bits``, ``weight`` (O, I/groups, kh,
      kw), ``stride``, ``padding`` (before and after, both dimensions), ``dilation``, ``groups``
    * ``max_pool`` and ``mean_pool``: ``kernel``, ``stride``, ``padding``, ``dilation``
    * ``slice``: ``start`` and ``step`` for C, H and W
    * ``pad``: zeros ``before`` C, H and W; the shape says how many follow
    * ``concat`` of two values or more: their channels one behind another
    * ``reshape``: the same numbers in their order
    """

    kind: str
    inputs: tuple[int, ...]
    shape: tuple[int, int, int]
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """How many numbers its output has."""
        return int(np.prod(self.shape))

    @property
    def name(self) -> str:
        """The name of the layer, for tensors and messages; empty for other kinds."""
        return str(self.settings.get("name", ""))

    def number(self, key: str) -> int:
        """Return a setting that is one whole number."""
        return int(cast("int", self.settings[key]))

    def numbers(self, key: str) -> tuple[int, ...]:
        """Return a setting that is a row of whole numbers."""
        return tuple(cast("Sequence[int]", self.settings[key]))


@dataclass(frozen=True, slots=True)
class Program:
    """All operations of a network in their order; the last one's output is the logits.

    ``tensors`` are by name: of a layer NAME ``NAME.codes`` (uint8: ``pack``), ``NAME.scale`` and
    ``NAME.shift`` (O) in fp32; constants (C) or (1). ``takes_bytes`` says what an image is.
    """

    input_shape: tuple[int, int, int]
    takes_bytes: bool
    operations: tuple[Operation, ...]
    tensors: Mapping[str, Array]

    def shape(self, value: int) -> tuple[int, int, int]:
        """Return the shape of a value by its number."""
        return self.operations[value - 1].shape if value else self.input_shape

    def as_json(self) -> JsonObject:
        """Return all but the tensors as plain values."""
        return {
            "input_shape": list(self.input_shape),
            "takes_bytes": self.takes_bytes,
            "operations": [asdict(one) for one in self.operations],
        }

    @classmethod
    def from_json(cls, description: JsonObject, tensors: Mapping[str, Array]) -> Program:
        """Return the program of what ``as_json`` gave."""
        operations = tuple(
            Operation(one["kind"], tuple(one["inputs"]), _shape(one["shape"]), one["settings"])
            for one in description["operations"]
        )
        shape = _shape(description["input_shape"])
        return cls(shape, bool(description["takes_bytes"]), operations, tensors)

    def __call__(self, images: Array) -> Values:
        """Return logits (B, classes) of images (B, C, H, W)."""
        values: list[Values] = [images.astype(np.float32)]
        for operation in self.operations:
            inputs = [values[number] for number in operation.inputs]
            out = _RUN[operation.kind](operation, inputs, self.tensors)
            values.append(out.reshape(len(images), *operation.shape))
        return values[-1].reshape(len(images), -1)


def _shape(sizes: Sequence[int]) -> tuple[int, int, int]:
    channels, height, width = sizes
    return channels, height, width


def pack(codes: Array, bits: int) -> NDArray[np.uint8]:
    """Return signed codes as a row of ``bits`` bits each, the lowest bit first, 8 in a byte."""
    whole = codes.reshape(-1, 1).astype(np.int16) & ((1 << bits) - 1)
    return np.packbits((whole >> np.arange(bits)) & 1, bitorder="little")


def unpack(packed: Array, bits: int, count: int) -> NDArray[np.int16]:
    """Return the first ``count`` codes of what ``pack`` gave."""
    rows = np.unpackbits(packed.astype(np.uint8), count=bits * count, bitorder="little")
    codes = rows.reshape(count, bits) @ (1 << np.arange(bits))
    signed: NDArray[np.int16] = np.where(codes >> (bits - 1), codes - (1 << bits), codes).astype(
        "i2"
    )
    return signed


def _binary(operation: Operation, inputs: Sequence[Values], tensors: Mapping[str, Array]) -> Values:
    ufunc = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
    right: Array = inputs[-1]
    if name := operation.settings.get("constant"):
        right = tensors[str(name)].reshape(-1, 1, 1)
    result: Values = ufunc[operation.kind](inputs[0], right)
    return result


def _clamp(operation: Operation, inputs: Sequence[Values], _: Mapping[str, Array]) -> Values:
    low, high = operation.settings["low"], operation.settings["high"]
    return np.clip(inputs[0], low, high).astype(np.float32)  # type: ignore[call-overload, no-any-return]


def _codes(operation: Operation, x: Values) -> Values:
    step, offset = (operation.settings[key] for key in ("step", "offset"))
    if offset is not None:
        x = x - np.float32(cast("float", offset))
    low, high = operation.number("low"), operation.number("high")
    ratio: Values = x / np.float32(cast("float", step))
    codes: Values = np.rint(np.clip(ratio, low, high)).astype(np.float32)
    return codes


def _quantize(operation: Operation, inputs: Sequence[Values], _: Mapping[str, Array]) -> Values:
    offset = operation.settings["offset"]
    values = _codes(operation, inputs[0]) * np.float32(cast("float", operation.settings["step"]))
    return values if offset is None else values + np.float32(cast("float", offset))


def _layer(operation: Operation, inputs: Sequence[Values], tensors: Mapping[str, Array]) -> Values:
    shape, groups = operation.numbers("weight"), operation.number("groups")
    packed = tensors[f"{operation.name}.codes"]
    weight = unpack(packed, operation.number("bits"), int(np.prod(shape)))
    top, bottom, left, right = operation.numbers("padding")
    codes = np.pad(
        _codes(operation, inputs[0]),
        ((0, 0), (0, 0), (top, bottom), (left, right)),
        constant_values=operation.number("zero_code"),
    )
    columns = np.stack(list(_windows(operation, codes, shape[2:])), 2)  # (B, C, k, H', W')
    batch, _, _, height, width = columns.shape
    columns = columns.reshape(batch, groups, -1, height * width)
    matrix = weight.reshape(groups, shape[0] // groups, -1).astype(np.float64)
    acc = (matrix @ columns.astype(np.float64)).reshape(batch, shape[0], height, width)
    scale, shift = (
        tensors[f"{operation.name}.{key}"].astype(np.float32).reshape(-1, 1, 1)
        for key in ("scale", "shift")
    )
    scaled: Values = acc.astype(np.float32) * scale
    return scaled + shift


def _windows(operation: Operation, x: Values, kernel: Sequence[int]) -> list[Values]:
    """Return, by place in the kernel, what each output reads there: (B, C, H', W')."""
    (_, height, width), stride = operation.shape, operation.numbers("stride")
    dilation = operation.numbers("dilation")
    return [
        x[
            :,
            :,
            i * dilation[0] : i * dilation[0] + stride[0] * (height - 1) + 1 : stride[0],
            j * dilation[1] : j * dilation[1] + stride[1] * (width - 1) + 1 : stride[1],
        ]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _pool(operation: Operation, inputs: Sequence[Values], __: Mapping[str, Array]) -> Values:
    kernel = operation.numbers("kernel")
    is_mean = operation.kind == "mean_pool"
    (_, height, width), stride = operation.shape, operation.numbers("stride")
    top, left = operation.numbers("padding")
    # as far as the last window reaches, which may be beyond the image
    reach = [
        stride[i] * (size - 1) + operation.numbers("dilation")[i] * (kernel[i] - 1) + 1
        for i, size in enumerate((height, width))
    ]
    _, _, rows, columns = inputs[0].shape
    ends = (max(0, reach[0] - rows - top), max(0, reach[1] - columns - left))
    amounts = ((0, 0), (0, 0), (top, ends[0]), (left, ends[1]))
    x = np.pad(inputs[0], amounts, constant_values=0 if is_mean else -np.inf)
    windows = _windows(operation, x, kernel)
    total = windows[0]
    for one in windows[1:]:
        total = total + one if is_mean else np.maximum(total, one)
    return total / np.float32(len(windows)) if is_mean else total


def _slice(operation: Operation, inputs: Sequence[Values], _: Mapping[str, Array]) -> Values:
    start, step = operation.numbers("start"), operation.numbers("step")
    ends = [a + s * (n - 1) + 1 for a, s, n in zip(start, step, operation.shape, strict=True)]
    cut = tuple(slice(*one) for one in zip(start, ends, step, strict=True))
    return inputs[0][(slice(None), *cut)]


def _pad(operation: Operation, inputs: Sequence[Values], _: Mapping[str, Array]) -> Values:
    before, sizes = operation.numbers("before"), inputs[0].shape[1:]
    after = [n - a - s for n, a, s in zip(operation.shape, before, sizes, strict=True)]
    return np.pad(inputs[0], ((0, 0), *zip(before, after, strict=True)))


def _concat(_: Operation, inputs: Sequence[Values], __: Mapping[str, Array]) -> Values:
    return np.concatenate(inputs, 1)


def _reshape(_: Operation, inputs: Sequence[Values], __: Mapping[str, Array]) -> Values:
    return inputs[0]


_RUN = {
    **dict.fromkeys(("add", "sub", "mul", "div"), _binary),
    "clamp": _clamp,
    "quantize": _quantize,
    "layer": _layer,
    "max_pool": _pool,
    "mean_pool": _pool,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "reshape": _reshape,
}
