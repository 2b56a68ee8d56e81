"""Which of the measured denoisers serve, and for how many rows each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastdiff.backends import Denoiser, by_size, kind_of, parts_of, row_by_row
from fastdiff.compiling.company import Company, Effect
from fastdiff.compiling.measuring import Trial
from fastdiff.engine.micro_batches import best_batch
from fastdiff.networks import Network

_LOW_PRECISION_GAIN = 1.1
_SECOND_BACKEND_GAIN = 1.1  # what another backend must gain to earn the memory of its weights
_MOST_ROWS = 256  # row counts up to here decide which batch sizes are kept


def choose_apart(
    trials: Sequence[Trial], company: Company, network: Network
) -> tuple[Denoiser, dict[int, float], list[Trial]]:
    """Choose as `choose` does, and look at company once more at the sizes that will be used.

    All trials have passed in calls of two rows. A backend whose rows couple at a size that it was
    chosen for, or at one row less, evaluates its rows one by one, and the choice is made again.

    Returns
    -------
    denoiser : Denoiser
    seconds : dict of int to float
        Of a call by its number of rows.
    trials : list of Trial
        What the choice was made from in the end.
    """
    trials = list(trials)
    while True:
        denoiser, seconds = choose(trials)
        coupled = _coupled(denoiser, seconds, company)
        if not coupled:
            return denoiser, seconds, trials
        for part in coupled:
            own = [trial for trial in trials if trial.denoiser is part]
            like = replace(own[0].candidate, coupled=True)
            alone = Trial.of(network, row_by_row(part), like, 1)
            alone.measure()
            trials = [trial for trial in trials if trial.denoiser is not part] + [alone]


def choose(trials: Sequence[Trial]) -> tuple[Denoiser, dict[int, float]]:
    """Take the denoiser with the best rate, and for each number of rows the best batch size.

    At batch sizes where another backend of its kind is clearly faster, that one serves.
    """
    best = _best(trials).denoiser
    kind = kind_of(best)
    fastest: dict[int, tuple[float, Trial]] = {}
    for trial in trials:
        own = trial.denoiser
        cost = trial.candidate.seconds * (1.0 if own is best else _SECOND_BACKEND_GAIN)
        size = trial.candidate.batch
        if kind_of(own) == kind and (size not in fastest or cost < fastest[size][0]):
            fastest[size] = cost, trial
        trial.candidate.chosen_from = None
    sizes = {size: trial for size, (_, trial) in fastest.items()}
    seconds = {size: trial.candidate.seconds for size, trial in sizes.items()}
    for rows in range(1, _MOST_ROWS + 1):
        candidate = sizes[best_batch(seconds, rows)].candidate
        candidate.chosen_from = candidate.chosen_from or rows
    used = {size: trial for size, trial in sizes.items() if trial.candidate.chosen_from}
    denoiser = by_size({size: trial.denoiser for size, trial in used.items()})
    return denoiser, {size: seconds[size] for size in used}


def _best(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the best rate, in float32 unless another precision is surely faster.

    A precision below float32 must gain more than it earns by the noise of the measurement, in its
    rate and for a single row: who samples one image would otherwise wait longer for a worse one.
    """
    best = max(trials, key=_merit)
    kind, device = kind_of(best.denoiser), best.denoiser.device
    exact = [t for t in trials if t.is_exact and t.denoiser.device == device]
    if best.is_exact or not exact:
        return best
    own = [trial for trial in trials if kind_of(trial.denoiser) == kind]
    one_row = min(trial.quartile(0.75) for trial in own)
    one_exact_row = min(trial.quartile(0.25) for trial in exact)
    return best if one_row < one_exact_row else max(exact, key=_merit)


def _merit(trial: Trial) -> float:
    """Return the rate: the upper quartile in float32, the lower less a gain in other precisions."""
    if trial.is_exact:
        return trial.candidate.batch / trial.quartile(0.25)
    return trial.candidate.batch / trial.quartile(0.75) / _LOW_PRECISION_GAIN


def _coupled(denoiser: Denoiser, seconds: dict[int, float], company: Company) -> list[Denoiser]:
    """Return the parts of `denoiser` whose rows couple at sizes of theirs, or at one row less."""
    parts = parts_of(denoiser, seconds)
    return [
        part
        for part in dict.fromkeys(parts.values())
        if any(
            company.effect(part, rows) is Effect.COUPLED
            for size in seconds
            for rows in (size - 1, size)
            if parts[size] is part and rows > company.rows
        )
    ]
