"""The load test: arrivals that wait for nobody, latencies that hide nothing."""

import json
import re
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import FakeWorker, fake_service, running, until
from typer.testing import CliRunner

from fastdiff.cli import app
from fastdiff.errors import InvalidArgument, Overloaded, Unavailable, UnknownName
from fastdiff.plots import colors_of
from fastdiff.serving.loadreport import LoadReport, percentile, to_html
from fastdiff.serving.loadtest import Kind, Load, Outcome, parse_mix, send

MIX = (Kind(10, 0.8), Kind(100, 0.2))


@pytest.fixture
def worker():
    return FakeWorker(sample_shape=(1, 8, 8))


@pytest.fixture
def url(worker):
    with running(fake_service(worker)) as url:
        yield url


def outcome(kind, due, seconds, status="answered", **facts):
    return Outcome(kind, due, 0.0, seconds, status, **facts)


def test_mix_reads_steps_sizes_and_weights():
    assert parse_mix("10:0.8,100@64x32:0.2, 7") == (
        Kind(10, 0.8),
        Kind(100, 0.2, "64x32"),
        Kind(7, 1.0),
    )


@pytest.mark.parametrize("text", ["", "ten", "0", "-3", "10:x", "10:-1", "10:inf", "10:0"])
def test_mix_that_is_none_is_refused_with_the_part(text):
    with pytest.raises(InvalidArgument, match=re.escape(repr(text))):
        parse_mix(text)


@pytest.mark.parametrize(
    "wrong", [{"rate": 0}, {"seconds": -1}, {"n": 0}, {"arrivals": "burst"}, {"rate": float("inf")}]
)
def test_load_that_is_none_is_refused_by_name(wrong):
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        Load(**{"rate": 1, "seconds": 1, **wrong})


def test_fixed_arrivals_are_evenly_spaced():
    due = [t for t, _ in Load(rate=8, seconds=2, arrivals="fixed").schedule()]
    assert due == [i / 8 for i in range(16)]


def test_poisson_arrivals_have_exponential_gaps_and_the_mix_its_weights():
    schedule = Load(rate=50, seconds=200, mix=MIX, seed=3).schedule()
    gaps = np.diff([t for t, _ in schedule])
    assert len(schedule) == pytest.approx(10_000, abs=400)  # 4 standard deviations
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(0.02, rel=0.04)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    short = sum(kind.steps == 10 for _, kind in schedule) / len(schedule)
    assert short == pytest.approx(0.8, abs=0.016)


@given(st.integers(0, 2**63), st.sampled_from(["poisson", "fixed"]))
def test_schedule_is_a_function_of_the_seed(seed, arrivals):
    load = Load(rate=5, seconds=3, mix=MIX, seed=seed, arrivals=arrivals)
    schedule = load.schedule()
    assert schedule == load.schedule()
    assert all(0 <= t <= 3 for t, _ in schedule)
    assert schedule == sorted(schedule, key=lambda arrival: arrival[0])


def test_arrivals_wait_for_nobody_and_latency_counts_from_when_they_were_due(worker, url):
    worker.gate.clear()
    load = Load(rate=40, seconds=0.25, arrivals="fixed", n=2, parameters={"prompt": "7"})
    threading.Thread(target=answer_all_once_all_have_come, args=(worker, 10)).start()
    outcomes = send(url, load)
    assert [o.status for o in outcomes] == ["answered"] * 10
    assert [o.due_seconds for o in outcomes] == [i / 40 for i in range(10)]
    # Nobody was answered before the last came, and the first had waited the longest by then.
    assert all(o.seconds > 9 / 40 - o.due_seconds for o in outcomes)
    assert {(o.queue_seconds, o.estimate_seconds) for o in outcomes} == {(0.25, 1.5)}
    seeds = [job.request.seeds.tolist() for job in worker.seen]
    assert sorted(seeds) == [[2 * i, 2 * i] for i in range(10)]


def answer_all_once_all_have_come(worker, count):
    until(lambda: sum(job.request is not None for job in worker.seen) == count)
    for job in list(worker.seen):
        worker.play(job)


def test_refusals_and_failures_are_told_apart(worker, url):
    load = Load(rate=20, seconds=0.1, arrivals="fixed")
    worker.refusal = Overloaded("full", retry_after=3.2)
    assert [(o.status, o.retry_after_seconds) for o in send(url, load)] == [("refused", 4.0)] * 2
    worker.refusal, worker.error = None, ValueError("boom")
    failed = send(url, load)
    assert [o.status for o in failed] == ["failed"] * 2
    assert failed[0].error.startswith("500: ")
    (gone,) = send("http://127.0.0.1:9", Load(rate=1, seconds=1, arrivals="fixed"))
    assert gone.status == "failed"
    assert gone.error.startswith("ConnectError")


def report():
    """Return twenty short requests of 10 ms to 200 ms, one refused, one long and one failed."""
    short = [outcome("10", i * 0.1, (i + 1) / 100, queue_seconds=i / 100) for i in range(20)]
    others = [
        outcome("10", 2.0, 0.001, "refused", retry_after_seconds=1.0),
        outcome("100", 2.1, 0.9, queue_seconds=0.5),
        outcome("100", 2.2, 0.1, "failed", error="<boom>"),
    ]
    return LoadReport(Load(rate=10, seconds=2.3, mix=MIX, n=3), short + others, goal_seconds=0.1)


def test_summary_counts_and_percentiles_are_those_of_the_answered():
    short, long, total = report().summaries()
    assert (short.kind, short.sent, short.answered, short.refused) == ("10", 21, 20, 1)
    assert short.mean_seconds == pytest.approx(0.105)
    assert (short.p50_seconds, short.p95_seconds, short.p99_seconds) == (0.1, 0.19, 0.2)
    assert short.queue_p50_seconds == 0.09
    assert short.goodput == pytest.approx(10 / 21)  # refused requests are not good
    assert (long.answered, long.failed, long.goodput) == (1, 1, 0.0)
    assert (total.kind, total.sent, total.max_seconds) == ("all", 23, 0.9)
    assert report().seconds == pytest.approx(3.0)
    assert report().images_per_second == pytest.approx(21 * 3 / 3.0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.integers(1, 100))
def test_percentile_is_an_observation_that_enough_are_within(values, percent):
    found = percentile(values, percent)
    assert found in values
    assert sum(v <= found for v in values) >= percent / 100 * len(values)
    assert sum(v < found for v in values) < percent / 100 * len(values)


def test_nothing_answered_has_no_latency():
    (summary,) = LoadReport(Load(1, 1), [outcome("50", 0.0, 0.1, "refused")]).summaries()
    assert (summary.refused, summary.p50_seconds, summary.goodput) == (1, None, None)


def test_page_opens_without_a_network_and_escapes_what_it_shows():
    page = to_html(report())
    assert re.search("<(?:script|link|img|iframe)|https?:", page) is None
    assert page.count("<figure>") == 2
    assert "10</td><td>21</td><td>20</td><td>1</td>" in page
    assert "100 steps, failed" in page


def test_a_kind_of_request_has_one_colour_and_a_status_one_mark():
    short, long = colors_of(["10", "100"]).values()
    swatches, over_time, distribution = to_html(report()).split("<figure>")
    for part in (swatches, over_time, distribution):
        assert re.findall("#[0-9a-f]{6}", part.partition("<tbody>")[2] or part).count(short) > 0
        assert set(re.findall("#[0-9a-f]{6}", part.partition("<tbody>")[2] or part)) == {
            short,
            long,
        }
    marks = re.findall('class="marks ([a-z]+)" stroke="([^"]+)"', over_time)
    assert set(marks) == {("dot", short), ("cross", short), ("dot", long), ("plus", long)}


def test_a_page_of_a_long_test_is_small():
    mix = (Kind(10), Kind(100))
    load = Load(rate=100, seconds=200, mix=mix)
    many = [
        outcome(kind.name, due, (number * 7919 % 20011) / 10_000)
        for number, (due, kind) in enumerate(load.schedule())
    ]
    assert len(many) > 19_000
    assert len(to_html(LoadReport(load, many))) < 300_000


def test_command_reports_and_writes_and_fails_with_the_server(worker, url, tmp_path):
    words = ["loadtest", url, "--rate", "40", "--duration", "0.25", "--arrivals", "fixed"]
    words += ["--mix", "10:0.5,20:0.5", "--seed", "1", "--goal-ms", "5000", "--prompt", "3"]
    json_path, html_path = tmp_path / "load.json", tmp_path / "load.html"
    paths = ["--json", str(json_path), "--html", str(html_path)]
    done = CliRunner().invoke(app, words + paths, catch_exceptions=False)
    assert done.exit_code == 0
    assert "images/s" in done.output
    record = json.loads(json_path.read_text())
    (*kinds, total) = record["summaries"]
    assert [kind["kind"] for kind in kinds] == ["10", "20"]
    assert (total["sent"], total["answered"], total["goodput"]) == (10, 10, 1.0)
    assert sorted({job.steps for job in worker.seen}) == [10, 20]
    assert "<h1>fastdiff loadtest</h1>" in html_path.read_text()
    worker.error = ValueError("boom")
    assert CliRunner().invoke(app, words).exit_code == 1


@pytest.mark.parametrize(
    "url", ["foo", "127.0.0.1:8000", "localhost:8000", "http://", "http://a:b"]
)
def test_what_is_no_url_is_refused_before_anything_is_sent(url):
    with pytest.raises(InvalidArgument, match="expected http://HOST:PORT"):
        send(url, Load(1, 1))
    with pytest.raises(InvalidArgument, match="expected http://HOST:PORT"):
        app(["loadtest", url], standalone_mode=False)


def test_command_asks_the_server_before_it_sends_a_load(worker, url, tmp_path):
    taken = {"nobody answers": "http://127.0.0.1:9", "unknown model of this server 'x'": url}
    for message, server in taken.items():
        with pytest.raises((Unavailable, UnknownName), match=message):
            app(["loadtest", server, "--model", "x"], standalone_mode=False)
    with pytest.raises(InvalidArgument, match="cannot be written"):
        app(["loadtest", url, "--json", str(tmp_path)], standalone_mode=False)
    assert worker.seen == []
