"""Answer whether lsqctl's quantizer computes what the paper says, and who else does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lsqctl import __version__

if TYPE_CHECKING:
    from lsqctl.quant.conformance import CheckResult


@dataclass(frozen=True, slots=True)
class ImplementationInfo:
    """One implementation: ``skip_reason`` is empty, or why it could not be asked."""

    name: str
    version: str
    skip_reason: str = ""


@dataclass(frozen=True, slots=True)
class ConformanceRow:
    """One check: where the paper says it, and the answers by implementation."""

    key: str
    title: str
    source: str
    answers: Mapping[str, CheckResult]


@dataclass(frozen=True, slots=True)
class ConformanceMatrix:
    """Every check against every implementation; ours is the first."""

    implementations: Sequence[ImplementationInfo]
    rows: Sequence[ConformanceRow]

    @property
    def conforms(self) -> bool:
        """Whether ours gives every answer of the paper."""
        name = self.implementations[0].name
        return all(row.answers[name].verdict == "ok" for row in self.rows)

    def counts(self, name: str) -> tuple[int, int]:
        """Return (right answers, questions asked) of one implementation."""
        verdicts = [row.answers[name].verdict for row in self.rows]
        return verdicts.count("ok"), verdicts.count("ok") + verdicts.count("differs")


def conformance_matrix() -> ConformanceMatrix:
    """Ask ours, torch's, Brevitas' and the form of public LSQ code all golden questions."""
    from lsqctl.quant import conformance as golden

    implementations = [
        golden.lsqctl_quantizer(__version__),
        golden.torch_fake_quantize(),
        golden.detach_form(),
        golden.brevitas_int_quant(),
    ]
    return ConformanceMatrix(
        [
            ImplementationInfo(
                implementation.name, implementation.version, implementation.skip_reason
            )
            for implementation in implementations
        ],
        [
            ConformanceRow(
                check.key,
                check.title,
                check.source,
                {
                    implementation.name: golden.run_check(check, implementation)
                    for implementation in implementations
                },
            )
            for check in golden.CHECKS
        ],
    )
