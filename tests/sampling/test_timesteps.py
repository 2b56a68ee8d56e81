import diffusers
import pytest

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling import SPACINGS, spaced_timesteps
from fastdiff.sampling.timesteps import check_timesteps


def test_published_times():
    assert spaced_timesteps(5, steps_offset=1).tolist() == [801, 601, 401, 201, 1]
    assert spaced_timesteps(4, spacing="trailing").tolist() == [999, 749, 499, 249]
    assert spaced_timesteps(4, spacing="linspace").tolist() == [999, 666, 333, 0]
    assert spaced_timesteps(3, 1000, "linspace", fractional=True).tolist() == [999, 499.5, 0]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("T", [50, 1000])
def test_times_are_those_of_diffusers_for_every_count(spacing, T):
    peer = diffusers.DDIMScheduler(num_train_timesteps=T, timestep_spacing=spacing)
    longer = []
    for steps in range(2, T + 1, 1 if T < 100 else 13):
        peer.set_timesteps(steps)
        theirs = peer.timesteps.tolist()
        if len(theirs) > steps:  # rounding added one, see docs/conformance.md
            assert theirs[-1] == -1
            longer.append(steps)
        assert spaced_timesteps(steps, T, spacing).tolist() == theirs[:steps]
    assert spacing == "trailing" or not longer
    assert (spacing, T) != ("trailing", 50) or longer == [29, 31]


def test_every_time_once_when_all_are_asked_for():
    for spacing in SPACINGS:
        assert spaced_timesteps(1000, spacing=spacing).tolist() == list(range(999, -1, -1))


def test_61_trailing_steps_are_61():
    times = spaced_timesteps(61, spacing="trailing")
    assert len(times) == 61
    assert times[-1] == 15
    peer = diffusers.DDIMScheduler(timestep_spacing="trailing")
    peer.set_timesteps(61)
    assert peer.timesteps.tolist() == [*times, -1]


def test_one_step_starts_from_noise():
    assert spaced_timesteps(1, spacing="linspace").tolist() == [999]
    assert spaced_timesteps(1, spacing="trailing").tolist() == [999]
    assert spaced_timesteps(1, spacing="leading").tolist() == [0]


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.0, "10", None, True, float("nan")])
def test_step_counts_out_of_range_are_refused(steps):
    with pytest.raises(InvalidArgument, match="whole number from 1 to 1000, got"):
        spaced_timesteps(steps)


def test_times_out_of_range_or_repeated_are_refused():
    with pytest.raises(InvalidArgument, match=r"0..999, got 1000.*steps_offset"):
        spaced_timesteps(1000, steps_offset=1)
    with pytest.raises(InvalidArgument, match=r"must descend .*, got 0 then 0; use fewer"):
        spaced_timesteps(1000, final_point=True)
    with pytest.raises(UnknownName, match="'karras'; known: leading, linspace, trailing"):
        spaced_timesteps(10, spacing="karras")


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([], "non-empty"),
        (5, "non-empty"),
        ([[5, 4]], "non-empty"),
        (["a"], "list of numbers"),
        ([3, 5], "descend by at least 0.001, got 3 then 5"),
        ([5, 5 - 1e-6], "descend"),
        ([5, 5], "descend"),
        ([10, -1], "got -1"),
        ([50, 2], "0..49, got 50"),
        ([3, float("nan")], "got nan"),
    ],
)
def test_explicit_times_are_checked(times, message):
    with pytest.raises(InvalidArgument, match=message):
        check_timesteps(times, (0, 49))


def test_explicit_times_must_agree_with_the_count():
    assert check_timesteps((7, 2.5), (0, 49), 2).tolist() == [7, 2.5]
    with pytest.raises(InvalidArgument, match="steps=3 but 2 timesteps"):
        check_timesteps([7, 2], (0, 49), 3)
