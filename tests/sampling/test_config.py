"""What configurations of schedulers say, in the words of every version of diffusers."""

import dataclasses
import inspect

import diffusers
import numpy as np
import pytest

from fastdiff.errors import InvalidArgument
from fastdiff.sampling import Schedule, StepTable, known_schedulers, solver_from_config
from fastdiff.sampling.scheduler_keys import KEYS, READS

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),  # diffusers
]

NAMES = [name for name in known_schedulers() if name != "DPMSolverSDEScheduler"]  # needs torchsde
OTHERS = (
    "CogVideoXDPMScheduler",
    "IPNDMScheduler",
    "LMSDiscreteScheduler",
    "RePaintScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UnCLIPScheduler",
)


def defaults(name):
    parameters = inspect.signature(getattr(diffusers, name)).parameters
    return {key: p.default for key, p in parameters.items() if p.default is not p.empty}


def read(config):
    return solver_from_config(config), Schedule.from_config(config)


def test_every_key_of_every_class_is_known():
    assert set(READS) == set(known_schedulers())
    for name in NAMES:
        assert READS[name] == defaults(name).keys(), name
    for name in OTHERS:
        assert defaults(name).keys() <= KEYS, name


@pytest.mark.parametrize("name", NAMES)
def test_a_key_that_is_left_out_is_what_the_class_takes(name):
    full = {"_class_name": name, **defaults(name)}
    assert read({"_class_name": name}) == read(full)
    assert read(dict.fromkeys(defaults(name), None) | {"_class_name": name}) == read(full)


@pytest.mark.parametrize("name", NAMES)
def test_keys_of_other_classes_say_nothing(name):
    """`from_config` of diffusers keeps them, and the class does not read them."""
    foreign = {
        **{key: value for other in OTHERS for key, value in defaults(other).items()},
        "clip_sample": True,
        "final_sigmas_type": "sigma_min",
        "invert_sigmas": True,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "shift": 5.0,
        "sigma_min": 0.3,
        "steps_offset": 1,
        "thresholding": True,
        "timestep_type": "continuous",
        "trained_betas": [0.1, 0.2],
        "use_flow_sigmas": True,
        "use_karras_sigmas": True,
        "variance_type": "learned",
    }
    borrowed = {key: value for key, value in foreign.items() if key not in READS[name]}
    assert len(borrowed) > 8
    tables = []
    for config in ({"_class_name": name}, {"_class_name": name, **borrowed}):
        solver, schedule = read(config)
        tables.append(solver.table(schedule, 7, compat="diffusers"))
    for field in dataclasses.fields(StepTable):
        values = [getattr(table, field.name) for table in tables]
        np.testing.assert_array_equal(*values, err_msg=field.name)


def test_old_keys_that_say_nothing_are_accepted():
    """What google/ddpm-* and CompVis/ldm-* of 2022 have in their files, and private keys."""
    old = {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": "0.1.1",
        "_use_default_values": ["thresholding"],
        "_id": 3,
        "beta_schedule": "scaled_linear",
        "clip_sample_range": None,
        "nobody_knows": None,
        "predict_epsilon": True,
        "skip_prk_steps": True,
        "tensor_format": "pt",
        "timestep_values": None,
        "trained_betas": None,
    }
    expected = read({"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"})
    assert read(old) == expected


def test_old_keys_that_mean_something_are_translated_or_refused():
    sample = {"_class_name": "DDPMScheduler", "predict_epsilon": False}
    assert Schedule.from_config(sample).prediction_type == "sample"
    spoken = {**sample, "prediction_type": "v_prediction"}
    assert Schedule.from_config(spoken).prediction_type == "v_prediction"
    with pytest.raises(InvalidArgument, match=r"predict_epsilon=False and .* contradict"):
        Schedule.from_config({**sample, "prediction_type": "epsilon"})
    with pytest.raises(InvalidArgument, match="timestep_values is not read any more"):
        Schedule.from_config({"timestep_values": [999, 0]})
    inverse = {"_class_name": "DDIMInverseScheduler", "set_alpha_to_zero": False}
    assert not Schedule.from_config(inverse).set_alpha_to_one
    assert Schedule.from_config({**inverse, "_class_name": "DDIMScheduler"}).set_alpha_to_one
    with pytest.raises(InvalidArgument, match=r"snr_shift_scale=3.0 changes the samples"):
        Schedule.from_config({"_class_name": "CogVideoXDDIMScheduler", "snr_shift_scale": 3.0})


@pytest.mark.parametrize("name", [["mine", "Mine"], 3])
def test_a_class_in_a_file_of_its_own_is_refused(name):
    with pytest.raises(InvalidArgument, match="_class_name: expected the name of a class, got"):
        solver_from_config({"_class_name": name})


def test_a_key_that_no_class_reads_is_refused():
    with pytest.raises(InvalidArgument, match="unknown scheduler setting 'beta_strat'; known: "):
        Schedule.from_config({"_class_name": "PNDMScheduler", "beta_strat": 0.1})
