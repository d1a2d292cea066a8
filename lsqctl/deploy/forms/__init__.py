"""The forms that a network is written in, one module each: ``@form(NAME, …)`` declares a class.

What is declared has the two functions of ``Form``. ``FORMS`` knows name, file and packages of each
without importing it. A form is loaded without torch, so that a folder can be checked where none is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lsqctl.deploy.runtime import Array
from lsqctl.registry import Registry
from lsqctl.run import JsonObject

if TYPE_CHECKING:
    from lsqctl.deploy.source import FormSource

__all__ = [
    "FORMS",
    "UNCLIPPED",
    "Answers",
    "Codes",
    "Form",
    "FormInfo",
    "Runner",
    "Unavailable",
    "WrittenForm",
    "form",
    "forms_markdown",
]

Codes = NDArray[np.int16]
UNCLIPPED = "unclipped"
"""In a report, of an exact form whose sums no processor clips; files of before have not got it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FormInfo:
    """What is known of a form before it is written.

    ``file`` is its name in the folder. ``description`` stands in docs/deploy.md and on the card,
    which shows ``usage``: Python that prints whether the expected logits come out.
    ``hub_file`` is its name where Hugging Face's readers look for it, if that is another one.
    ``packages``, between blanks, are what writing it needs, and ``extra`` brings them.
    """

    file: str
    description: str
    usage: str
    packages: str = ""
    extra: str = "deploy"
    hub_file: str = ""

    def file_in(self, *, hub: bool) -> str:
        """Return the name of its file in a folder, or in one in Hugging Face's layout."""
        return (hub and self.hub_file) or self.file


@dataclass(frozen=True, slots=True)
class WrittenForm:
    """A file; ``taps`` names, by edge, what holds its codes; ``details`` go to the report."""

    data: bytes
    taps: Mapping[str, str] = field(default_factory=dict)
    details: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answers:
    """What a network says of a batch: logits (B, classes), and by edge the codes that it shows."""

    logits: Array
    codes: Mapping[str, Codes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Runner:
    """A file in one runtime: ``answer`` takes images as the network does.

    ``promises_bits``: it must give the reference's logits to the last bit; others compute in
    float. A slow one answers ``max_images`` only.
    """

    runtime: str
    answer: Callable[[Array], Answers]
    promises_bits: bool = True
    max_images: int | None = None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why a file cannot be run in a runtime here, with what to do about it.

    ``refused``: the runtime is here and does not take the file.
    """

    runtime: str
    reason: str
    refused: bool = False


class Form(Protocol):
    """One way to write a network as a file."""

    def write(self, source: FormSource) -> WrittenForm:
        """Return the file.  Raises DataError for a network that this form cannot express."""

    def runners(
        self, written: WrittenForm, *, name: str, threads: int, trusted: bool
    ) -> Iterator[Runner | Unavailable]:
        """Yield the file in each runtime; ``trusted``: code in it may be compiled and run.

        Raises DataError for a file that a runtime refuses; ``name`` says which in messages.
        """


FORMS = Registry(__name__, "form", FormInfo, noun="form")
form = FORMS.declare


def forms_markdown() -> str:
    """Return the forms as a markdown table, as docs/deploy.md shows it."""
    rows = [f"| {name} | `{info.file}` | {info.description} |" for name, info in FORMS.items()]
    return "\n".join(["| form | file | what it is |", "|---|---|---|", *rows]) + "\n"
