"""Plots by the numbers in their SVG."""

import re

import pytest

from fastdiff.plots import Axis, Plot, Series, colors_of, to_figure, to_page


def drawn(*series, x=None, y=None, **options):
    return to_figure(Plot("t", x or Axis("x, s"), y or Axis("y, ms"), series, **options))


def marks(figure):
    """Return the places of markers in the plot, without those of the legend."""
    plot = figure.partition("<ul")[0]
    paths = re.findall(r'class="marks[^>]* d="([^"]+)"', plot)
    return [tuple(map(float, at)) for p in paths for at in re.findall(r"M([\d.]+) ([\d.]+)", p)]


def numbers(figure, anchor):
    """Return the numbers along an axis with their places in that direction."""
    shape = r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="ANCHOR">([\d.e-]+)</text>'
    found = re.findall(shape.replace("ANCHOR", anchor), figure)
    return {float(text): float(at[anchor == "end"]) for *at, text in found}


@pytest.mark.parametrize("log", [False, True])
def test_a_point_lies_where_the_numbers_beside_the_axes_say(log):
    axes = {"x": Axis("x, s", log), "y": Axis("y, ms", log)}
    figure = drawn(Series("a", "red", [(2.0, 50.0), (10.0, 20.0)]), **axes)
    along, up = numbers(figure, "middle"), numbers(figure, "end")
    (first, second) = marks(figure)
    assert first == pytest.approx((along[2], up[50] - 4), abs=1)  # a text stands on its line
    assert second == pytest.approx((along[10], up[20] - 4), abs=1)
    assert along[2] < along[10]
    assert up[20] > up[50]


@pytest.mark.parametrize(
    ("axis", "values", "ticks"),
    [
        (Axis("s"), [0.3, 1.78], [0, 0.5, 1, 1.5, 2]),
        (Axis("s"), [60.0], [0, 20, 40, 60]),
        (Axis("s"), [], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis("s"), [0.0], [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis("ms", log=True), [3.0, 40.0], [2, 5, 10, 20, 50]),
        (Axis("ms", log=True), [1e-6, 3e-3], [1e-6, 1e-5, 1e-4, 1e-3, 1e-2]),
        (Axis("ms", log=True), [10.0], [10, 20]),
    ],
)
def test_axes_have_round_numbers_around_all_values(axis, values, ticks):
    assert axis.ticks(values) == pytest.approx(ticks)


def test_colours_differ_and_stay_with_their_names():
    names = [f"contender {i}" for i in range(40)]
    colors = colors_of(names)
    assert len(set(colors.values())) == 40
    assert colors_of([*names, "another", *names]) == {**colors, **colors_of([*names, "another"])}


def test_marks_that_would_cover_each_other_are_drawn_once():
    figure = drawn(Series("a", "red", [(i % 7, i % 5) for i in range(10_000)]))
    assert len(marks(figure)) == 35


def test_a_level_is_within_the_plot_and_named():
    figure = drawn(Series("a", "red", [(1.0, 1.0)]), level=4.0, level_name="goal")
    (at,) = re.findall(r'class="level" d="M[\d.]+ ([\d.]+)H', figure)
    assert float(at) == pytest.approx(numbers(figure, "end")[4] - 4, abs=0.2)
    assert ">goal</text>" in figure


def test_what_it_is_given_is_text():
    series = Series("<b>", "red", [(1.0, 1.0)], texts=["<i>"])
    page = to_page("<h>", to_figure(Plot("<t>", Axis("<x>"), Axis("<y>"), [series], 1.0, "<l>")))
    assert not re.search("<[bihtxyl]>", page)
    for name in "bihtxyl":
        assert f"&lt;{name}&gt;" in page
