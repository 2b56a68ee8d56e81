"""Measure the conformance of every solver, and write docs/conformance.md and its plot.

    PYTHONPATH=. python tests/conformance

Trajectories beside diffusers' (trajectories.py), orders on data that are known exactly
(exact_problems.py), and the values that diffusers' tests assert (published_values.py).
"""

import itertools
from dataclasses import astuple
from pathlib import Path

import diffusers
import numpy as np
import torch
from exact_problems import (
    CASES,
    NOISY_CASES,
    NOISY_STEPS,
    gaussian,
    measured_order,
    mixture,
)
from plot import draw
from published_values import NOT_COMPARED, published
from solver_variants import variants
from test_published import difference
from trajectories import SHAPE, Differences, compare

from benchmarks.marks import replace_figures

DOCS = Path(__file__).parents[2] / "docs"
TRAJECTORY_STEPS = (1, 5, 13, 50)
PLOT_STEPS = (12, 24, 48, 96, 192)
PLOTTED = (
    "ddim",
    "heun",
    "dpmpp_2m solver_type=midpoint",
    "dpmpp_3m",
    "dpmpp_single solver_order=3",
    "deis solver_order=3",
    "unipc solver_order=2 solver_type=bh2 lower_order_final=False",
    "unipc solver_order=3 lower_order_final=False",
)


def table(head, rows):
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def trajectories():
    """Largest differences to diffusers, by solver, prediction type and spacing."""
    worst = {}
    for variant in variants():
        for prediction_type, spacing, steps in itertools.product(
            variant.prediction_types, variant.spacings, TRAJECTORY_STEPS
        ):
            # SciPy's beta quantiles take seconds in some of their constructors.
            if not variant.takes(steps) or (spacing == "beta" and steps == 50):
                continue
            key = (variant.solver, prediction_type, spacing)
            cases, largest = worst.get(key, (0, Differences()))
            found = compare(variant, prediction_type, spacing, steps)
            worst[key] = (cases + 1, largest.largest(found))
    head = ["solver", "prediction", "spacing", "cases", "table", "packed", "as shipped"]
    rows = [
        [*key, cases, *("" if np.isnan(e) else f"{e:.1e}" for e in astuple(errors))]
        for key, (cases, errors) in sorted(worst.items())
    ]
    versions = (
        f"diffusers {diffusers.__version__}, torch {torch.__version__}, NumPy {np.__version__}; "
        f"steps {', '.join(map(str, TRAJECTORY_STEPS))}; samples of shape {SHAPE}.\n\n"
    )
    return versions + table([*head, "on its levels"], rows)


def orders():
    """Measured orders of every solver, with its error at the most steps."""
    rows = []
    for case in CASES:
        row = [f"`{case.label}`", case.order, case.steps[-1]]
        for denoiser in (gaussian, mixture):
            errors = [case.error(denoiser, steps) for steps in case.steps]
            row += [f"{measured_order(errors):.2f}", f"{errors[-1]:.1e}"]
        rows.append(row)
    noisy = []
    for case in NOISY_CASES:
        means, errors = zip(*(case.errors(steps) for steps in NOISY_STEPS), strict=True)
        order = f"{measured_order(errors):.2f}"
        noisy.append(
            [f"`{case.label}`", case.order, order, f"{errors[-1]:.1e}", f"{means[-1]:.1e}"]
        )
    head = ["solver", "order", "steps", "Gaussian", "error", "mixture", "error"]
    last = NOISY_STEPS[-1]
    return (
        table(head, rows)
        + "\n"
        + table(
            ["solver with noise", "order", "variance", f"its error at {last}", "of the mean"], noisy
        )
    )


def published_values():
    """How many values each file of diffusers' tests asserts, and the largest difference."""
    worst = {}
    for case in published():
        count, largest = worst.get(case.scheduler, (0, 0.0))
        found = difference(case)
        worst[case.scheduler] = count + len(found), max(largest, *found)
    rows = [[f"`{name}`", n, f"{share:.2f}"] for name, (n, share) in sorted(worst.items())]
    rows += [[f"`{name}`", "", reason] for name, reason in sorted(NOT_COMPARED.items())]
    return table(["scheduler", "values", "largest difference, as a share of what is allowed"], rows)


def plot():
    """The error of some solvers over their evaluations, on the mixture."""
    by_label = {case.label: case for case in CASES}
    lines = {}
    for label in PLOTTED:
        case = by_label[label]
        points = [(len(case.table(n)), case.error(mixture, n)) for n in PLOT_STEPS]
        name = label.removesuffix(" lower_order_final=False").replace("solver_", "")
        lines[name] = [(n, e) for n, e in points if n <= PLOT_STEPS[-1]]
    return draw(lines, "Error over evaluations of the network on a mixture of two Gaussians")


def main():
    """Replace the figures of the page and the plot."""
    (DOCS / "convergence.svg").write_text(plot())
    page = DOCS / "conformance.md"
    for name, write in (
        ("orders", orders),
        ("published", published_values),
        ("trajectories", trajectories),
    ):
        replace_figures(page, f"<!-- {name} -->\n", f"<!-- end of {name} -->\n", write())


if __name__ == "__main__":
    main()
