"""The form *c*: one C99 file without dependencies, whose logits are the reference's to the bit."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lsqctl.deploy.forms import Answers, Runner, Unavailable, WrittenForm, form
from lsqctl.deploy.runtime import Array
from lsqctl.errors import DataError
from lsqctl.run import JsonObject

if TYPE_CHECKING:
    from lsqctl.deploy.program import Operation, Program
    from lsqctl.deploy.source import FormSource

COMPILER = "cc"
FLAGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
SMALL = ("-Os", "-fno-asynchronous-unwind-tables")  # as firmware is compiled
_BINARY = ("add", "sub", "mul", "div")
_IN_PLACE = ("layer", "quantize", "clamp", "reshape", *_BINARY)
_SHORT = 32767


@form(
    "c",
    file="model.c",
    description="one C99 file that needs no library, `lsq_predict(image, logits)`; the logits are "
    "the reference's to the bit",
    extra="",
    usage="""\
import ctypes
import subprocess
import numpy as np

command = ["cc", "-std=c99", "-O2", "-shared", "-fPIC", "{file}", "-o", "model.so"]
subprocess.run(command, check=True)
predict = ctypes.CDLL("./model.so").lsq_predict
expected = np.load("expected.npz")
logits = np.zeros_like(expected["logits"])
for image, row in zip(expected["images"], logits):
    image = np.ascontiguousarray(image)
    predict(image.ctypes.data_as(ctypes.c_void_p), row.ctypes.data_as(ctypes.c_void_p))
print((logits == expected["logits"]).all(), logits.argmax(1))
""",
)
class CSource:
    """Written from the program; RAM and flash are the section sizes of its object at -Os."""

    def write(self, source: FormSource) -> WrittenForm:
        """Return the file, and what it takes on this machine where a compiler is installed."""
        title = source.metadata.get("title", "a quantized network")
        data = c_text(source.program, title).encode()
        return WrittenForm(data, details=section_sizes(data) if shutil.which(COMPILER) else {})

    def runners(
        self, written: WrittenForm, *, name: str, threads: int, trusted: bool
    ) -> Iterator[Runner | Unavailable]:
        """Yield what the C compiler of this machine makes of it."""
        if not trusted:
            reason = "--compile compiles and runs it, which trusts whoever made the folder"
            yield Unavailable(COMPILER, reason)
        elif shutil.which(COMPILER) is None:
            yield Unavailable(COMPILER, "there is no C compiler: install gcc or clang")
        else:
            yield Runner(COMPILER, _Compiled(written.data, name))


class _Compiled:
    """The file as a shared library of this process, which stays loaded."""

    def __init__(self, data: bytes, name: str) -> None:
        with tempfile.TemporaryDirectory(prefix="lsqctl-c-") as folder:
            library = compile_c(data, Path(folder), "-O2", "-shared", "-fPIC", name=name)
            loaded = ctypes.CDLL(str(library))
        self._predict = loaded.lsq_predict
        self._n_classes = ctypes.c_int.in_dll(loaded, "lsq_classes").value

    def __call__(self, images: Array) -> Answers:
        logits = np.zeros((len(images), self._n_classes), np.float32)
        for image, row in zip(np.ascontiguousarray(images), logits, strict=True):
            self._predict(_pointer(image), _pointer(row))
        return Answers(logits)


def _pointer(array: Array) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def compile_c(data: bytes, folder: Path, *flags: str, name: str = "model.c") -> Path:
    """Return what the C compiler makes of a file.  Raises DataError with its first complaint."""
    source, output = folder / "model.c", folder / "model.out"
    source.write_bytes(data)
    command = [COMPILER, *FLAGS, *flags, str(source), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr]
        raise DataError(f"{COMPILER} refuses {name}: {lines[0].strip()}")
    return output


def section_sizes(data: bytes) -> JsonObject:
    """Return flash and RAM in bytes (code and constants; variables) of the object at -Os."""
    with tempfile.TemporaryDirectory(prefix="lsqctl-c-") as folder:
        compiled = compile_c(data, Path(folder), *SMALL, "-c")
        found = subprocess.run(["size", str(compiled)], capture_output=True, text=True, check=False)
    numbers = re.findall(r"^\s*(\d+)\s+(\d+)\s+(\d+)", found.stdout, re.MULTILINE)
    if not numbers:
        return {}
    text, initialized, zeroed = map(int, numbers[0])
    return {"flash_bytes": text + initialized, "ram_bytes": initialized + zeroed}


def c_text(program: Program, title: str) -> str:
    """Return a network as C: tables, the functions that it needs, and one call an operation."""
    arena = _Arena(program)
    layers = [one for one in program.operations if one.kind == "layer"]
    predict = _predict(program, arena, layers)
    parts = [
        _head(program, title, layers),
        f"static float lsq_values[{arena.size}];\n",
        *(_buffers(program, layers) if layers else ()),
        *_functions(predict),
        *_tables(program, layers),
        predict,
    ]
    return "\n".join(parts)


def _functions(calls: str) -> Iterator[str]:
    """Yield the functions that are called, in the order of their file; the first serves others."""
    template = files("lsqctl.deploy.forms").joinpath("runtime.c").read_text("utf-8")
    for number, text in enumerate(template.split("/* next */\n")):
        (*_, name) = re.findall(r"^static \w+ (\w+)\(", text, re.MULTILINE)
        if f"{name}(" in calls or (number == 0 and re.search(r"lsq_(layer_run|quantize)\(", calls)):
            yield text


def _head(program: Program, title: str, layers: Sequence[Operation]) -> str:
    channels, height, width = program.input_shape
    kind = "unsigned char" if program.takes_bytes else "float"
    return (
        f"/* {_comment(title)}\n"
        " *\n"
        f" * lsq_predict takes {channels} x {height} x {width} of {kind}, channels first,\n"
        f" * and gives {program.operations[-1].size} logits. {len(layers)} layers are sums of"
        " integers; every float operation\n"
        " * rounds once to fp32: the logits are the same on every machine with IEEE 754 floats.\n"
        " * One call at a time: the buffers are static.\n"
        " */\n"
        "#include <float.h>\n#include <stdint.h>\n\n"
        "#if defined(__FAST_MATH__) || FLT_EVAL_METHOD == 2\n"
        '#error "this file needs fp32 operations that round once each: no -ffast-math, no x87"\n'
        "#endif\n\n"
        f"typedef {kind} lsq_pixel;\n"
        f"extern const int lsq_classes;\n"
        f"const int lsq_classes = {program.operations[-1].size};\n"
        "void lsq_predict(const lsq_pixel *image, float *logits);\n"
    )


def _comment(text: str) -> str:
    """Return what of a name may stand in a comment."""
    return re.sub(r"[^\w ./,:-]|[*]/|/[*]", "", text)


def _buffers(program: Program, layers: Sequence[Operation]) -> Iterator[str]:
    codes = max(int(np.prod(program.shape(one.inputs[0]))) for one in layers)
    weights = max(int(np.prod(one.numbers("weight")[1:])) for one in layers)
    yield f"static unsigned char lsq_codes[{codes}];\nstatic signed char lsq_weights[{weights}];\n"


class _Arena:
    """Where each value lies in one row of floats; places of values that nobody reads are reused."""

    def __init__(self, program: Program) -> None:
        self.offsets: dict[int, int] = {}
        self.size = 0
        last_use = {n: i for i, one in enumerate(program.operations) for n in one.inputs}
        self._live: dict[int, int] = {}
        self._place(0, int(np.prod(program.input_shape)))
        for index, operation in enumerate(program.operations):
            dying = [n for n in set(operation.inputs) if last_use[n] == index]
            if operation.kind == "reshape" and dying:
                self.offsets[index + 1] = self.offsets[dying[0]]
                self._live[index + 1] = self._live.pop(dying[0])
                continue
            before = dying if operation.kind in _IN_PLACE else []
            if operation.kind in _BINARY:  # a number a channel is read after the first is written
                before = [n for n in dying if np.prod(program.shape(n)) == operation.size]
            for number in before:
                self._live.pop(number, None)
            self._place(index + 1, operation.size)
            for number in dying:
                if number not in before:
                    self._live.pop(number, None)

    def _place(self, number: int, size: int) -> None:
        """Take the lowest gap; an element-wise operation may write where it has read."""
        offset = 0
        for begin, end in sorted(
            (self.offsets[n], self.offsets[n] + s) for n, s in self._live.items()
        ):
            if offset + size <= begin:
                break
            offset = max(offset, end)
        self.offsets[number], self._live[number] = offset, size
        self.size = max(self.size, offset + size)


def _tables(program: Program, layers: Sequence[Operation]) -> Iterator[str]:
    own = {f"{one.name}.{key}" for one in layers for key in ("codes", "scale", "shift")}
    for name, values in program.tensors.items():
        if name not in own:
            yield f"static const float {name}[{values.size}] = {{{_floats(values)}}};\n"
    for number, one in enumerate(layers):
        packed = [
            *program.tensors[f"{one.name}.codes"].tolist(),
            0,
        ]  # one more, that is read with the last
        yield f"/* {_comment(one.name)} */"
        yield _wrapped(
            f"static const unsigned char w{number}[{len(packed)}] = {{", map(str, packed)
        )
        for key in ("scale", "shift"):
            values = program.tensors[f"{one.name}.{key}"]
            words = map(_float, values.reshape(-1).tolist())
            yield _wrapped(f"static const float {key}{number}[{values.size}] = {{", words)
    if layers:
        rows = ",\n".join(_layer_row(program, n, one) for n, one in enumerate(layers))
        yield f"static const lsq_layer lsq_layers[{len(layers)}] = {{\n{rows}\n}};\n"


def _layer_row(program: Program, number: int, one: Operation) -> str:
    _, in_height, in_width = program.shape(one.inputs[0])
    channels, height, width = one.shape
    _, per_group, kernel_height, kernel_width = one.numbers("weight")
    top, _, left, _ = one.numbers("padding")
    sizes = [
        *(
            per_group,
            in_height,
            in_width,
            channels,
            height,
            width,
            channels // one.number("groups"),
        ),
        *(kernel_height, kernel_width, *one.numbers("stride"), top, left, *one.numbers("dilation")),
        *(one.number(key) for key in ("low", "high", "zero_code", "bits")),
    ]
    if max(sizes) > _SHORT:
        raise DataError(
            f"the layer {one.name} has a size above {_SHORT}, which the form c cannot hold"
        )
    step, offset = (_float(one.settings[key] or 0.0) for key in ("step", "offset"))
    words = [f"w{number}", f"scale{number}", f"shift{number}", step, offset, *map(str, sizes)]
    return f"{{{', '.join(words)}}}"


def _wrapped(head: str, words: Iterator[str]) -> str:
    lines, line = [head], ""
    for word in words:
        if len(line) + len(word) > 98:
            lines.append(line)
            line = ""
        line += f"{word},"
    return "\n".join([*lines, line]) + "\n};"


def _floats(values: Array) -> str:
    return ", ".join(map(_float, values.reshape(-1).tolist()))


def _float(value: object) -> str:
    """Return an fp32 number in hexadecimal, which C reads without rounding."""
    return re.sub(r"\.?0*p", "p", float(value).hex()) + "f"  # type: ignore[arg-type]


def _predict(program: Program, arena: _Arena, layers: Sequence[Operation]) -> str:
    lines: list[str] = []
    tables: list[str] = []
    for number, one in enumerate(program.operations, 1):
        y = _at(arena, number)
        if one.kind == "reshape" and y == _at(arena, one.inputs[0]):
            continue
        table = _parameters(program, one)
        if table:
            tables.append(f"static const short p{number}[] = {{{', '.join(map(str, table))}}};\n")
        call = _call(program, one, arena, layers)
        lines.append(f"    {call.replace('@', y).replace('#', f'p{number}')}")
    size = int(np.prod(program.input_shape))
    n_logits, last = program.operations[-1].size, _at(arena, len(program.operations))
    return (
        "".join(tables) + "\n"
        "void lsq_predict(const lsq_pixel *image, float *logits)\n{\n    int i;\n"
        f"    for (i = 0; i < {size}; i++)\n        {_at(arena, 0)}[i] = (float)image[i];\n"
        + "\n".join(lines)
        + f"\n    for (i = 0; i < {n_logits}; i++)\n        logits[i] = {last}[i];\n}}\n"
    ).replace("lsq_values + 0)", "lsq_values)")


def _at(arena: _Arena, number: int) -> str:
    return f"(lsq_values + {arena.offsets[number]})"


def _call(program: Program, one: Operation, arena: _Arena, layers: Sequence[Operation]) -> str:
    """Return the statement of one operation; @ stands for where its output goes."""
    x, *others = (_at(arena, number) for number in one.inputs)
    if one.kind == "layer":
        return f"lsq_layer_run(lsq_layers + {layers.index(one)}, {x}, @);"
    if one.kind in _BINARY:
        other = others[0] if others else str(one.settings["constant"])
        second = program.shape(one.inputs[-1]) if others else program.tensors[other].shape
        count = int(np.prod(second))
        ends_text = f"{one.size}, {one.size // count}, {count}"
        return f"lsq_binary('{one.kind[0]}', {x}, {other}, @, {ends_text});"
    if one.kind == "clamp":
        ends = [one.settings[key] for key in ("low", "high")]
        low, high = (
            s if v is None else _float(v)
            for s, v in zip(("-FLT_MAX", "FLT_MAX"), ends, strict=True)
        )
        return f"lsq_clamp({x}, @, {one.size}, {low}, {high});"
    if one.kind == "quantize":
        step, offset = (_float(one.settings[key] or 0.0) for key in ("step", "offset"))
        ends_text = f"{one.number('low')}, {one.number('high')}"
        return f"lsq_quantize({x}, @, {one.size}, {step}, {offset}, {ends_text});"
    if one.kind in ("reshape", "concat"):
        return _copies([x, *others], [int(np.prod(program.shape(n))) for n in one.inputs])
    family = "pool" if one.kind.endswith("pool") else one.kind
    return f"lsq_{family}({x}, @, #);"


def _copies(parts: Sequence[str], sizes: Sequence[int]) -> str:
    """Return the statements that lay values of so many numbers one behind another."""
    positions = zip(parts, accumulate(sizes, initial=0), sizes, strict=False)
    calls = [f"lsq_copy({part}, @ + {at}, {size});" for part, at, size in positions]
    return " ".join(calls).replace("@ + 0,", "@,")


def _parameters(program: Program, one: Operation) -> list[int]:
    """Return the whole numbers that an operation reads from a table; none for most kinds."""
    source = program.shape(one.inputs[0])
    keys = {
        "max_pool": ("kernel", "stride", "padding", "dilation"),
        "mean_pool": ("kernel", "stride", "padding", "dilation"),
        "slice": ("start", "step"),
        "pad": ("before",),
    }.get(one.kind, ())
    settings = [number for key in keys for number in one.numbers(key)]
    if one.kind.endswith("pool"):
        return [int(one.kind == "mean_pool"), *source, *one.shape[1:], *settings]
    return [*source, *one.shape, *settings] if settings else []
