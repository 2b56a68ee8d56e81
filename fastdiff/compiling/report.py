"""What was measured when a sampler was compiled, and what was chosen."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastdiff.compiling.certificate import Certificate
from fastdiff.engine.micro_batches import best_batch


@dataclass
class Candidate:
    """One backend at one precision and batch size.

    Attributes
    ----------
    backend, precision : str
    batch : int
        Rows per call; 0 when it was refused before it was measured.
    seconds : float
        Median time of a call; NaN when it was not measured.
    certificate : Certificate or None
    refusal : str or None
        Why it cannot be chosen.
    chosen_from : int or None
        The smallest number of rows for which it is the best choice.
    coupled : bool
        Its rows depend on each other, so it evaluates them one by one.
    """

    backend: str
    precision: str
    batch: int = 0
    seconds: float = math.nan
    certificate: Certificate | None = None
    refusal: str | None = None
    chosen_from: int | None = None
    coupled: bool = False

    @property
    def name(self) -> str:
        """Backend and precision, for people."""
        return f"{self.backend} {self.precision}"

    @property
    def rows_per_second(self) -> float:
        """Denoiser evaluations per second."""
        return self.batch / self.seconds


@dataclass
class Report:
    """Every candidate that was looked at, with its figures; prints as a table.

    `Candidate.certificate` of a row has its errors at every noise level and after every step.
    """

    model: str
    machine: str
    candidates: list[Candidate]

    @property
    def chosen(self) -> Candidate:
        """The candidate with the best rate among those that sample."""
        used = (c for c in self.candidates if c.chosen_from is not None)
        return max(used, key=lambda c: c.rows_per_second)

    def serving(self, rows: int) -> Candidate:
        """Return the candidate whose calls evaluate `rows` rows."""
        used = {c.batch: c for c in self.candidates if c.chosen_from is not None}
        return used[best_batch({size: c.seconds for size, c in used.items()}, rows)]

    @property
    def statement(self) -> str:
        """What was chosen, in a line: backends, precision, and their error."""
        used = [c for c in self.candidates if c.chosen_from is not None]
        backends = " and ".join(dict.fromkeys(c.backend for c in used))
        judged = [c.certificate for c in used if c.certificate is not None]
        error = "no certificate"
        if judged:
            passed = all(certificate.refusal is None for certificate in judged)
            error = (
                f"{'certified error' if passed else 'error over the limit:'} "
                f"{max(certificate.error for certificate in judged):.1e} of an output, "
                f"{max(certificate.sample_error for certificate in judged):.1e} of a sample"
            )
        return f"{self.model}: {backends} {self.chosen.precision}, {error}"

    def table(self) -> Table:
        """Return the figures as a rich table, with the refused candidates below it."""
        best = self.chosen
        refused = [c for c in self.candidates if c.refusal]
        table = Table(
            title=Text(f"{self.model}: {best.name}, up to {best.rows_per_second:.0f} rows/s"),
            caption=Text("\n".join([self.machine, *self._coupled(), *map(_refusal, refused)])),
            title_justify="left",
            caption_justify="left",
        )
        for heading in ("backend", "precision", "batch", "ms", "rows/s", "error", "sample", ""):
            numeric = heading not in {"backend", "precision", ""}
            table.add_column(heading, justify="right" if numeric else "left")
        for c in self.candidates:
            if c.refusal:
                continue
            judged = c.certificate
            table.add_row(
                c.backend,
                c.precision,
                str(c.batch),
                f"{c.seconds * 1e3:.2f}",
                f"{c.rows_per_second:.0f}",
                f"{judged.error:.1e}" if judged else "",
                f"{judged.sample_error:.1e}" if judged else "",
                _verdict(c),
                style="bold" if c.chosen_from else None,
            )
        return table

    def _coupled(self) -> list[str]:
        """Return a line on the candidates whose rows depend on each other, if there are any."""
        names = dict.fromkeys(c.name for c in self.candidates if c.coupled)
        return [f"rows couple in {', '.join(names)}: evaluated one by one"] if names else []

    def to_json(self) -> dict[str, Any]:
        """Return plain values, from which `from_json` makes an equal report."""
        return {
            "model": self.model,
            "machine": self.machine,
            "candidates": [_to_json(candidate) for candidate in self.candidates],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Report:
        """Read what `to_json` wrote."""
        candidates = []
        for fields in record["candidates"]:
            given = fields["certificate"]
            certificate = Certificate.from_json(given) if given is not None else None
            seconds = math.nan if fields["seconds"] is None else float(fields["seconds"])
            read = {**fields, "seconds": seconds, "certificate": certificate}
            candidates.append(Candidate(**read))
        return cls(str(record["model"]), str(record["machine"]), candidates)

    def __str__(self) -> str:
        stream = io.StringIO()
        Console(file=stream, width=100, markup=False, emoji=False).print(self.table())
        return stream.getvalue().rstrip()


def _to_json(candidate: Candidate) -> dict[str, Any]:
    seconds = None if math.isnan(candidate.seconds) else candidate.seconds  # JSON has no NaN
    return {**asdict(candidate), "seconds": seconds}


def _refusal(candidate: Candidate) -> str:
    return f"refused {candidate.name}: {candidate.refusal}"


def _verdict(candidate: Candidate) -> str:
    if candidate.chosen_from is None:
        return ""
    return f"chosen from {candidate.chosen_from} row{'s' if candidate.chosen_from > 1 else ''}"
