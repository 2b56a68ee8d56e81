"""The keys that each scheduler class of diffusers reads, and its defaults for them.

A configuration may have keys that its class never reads: `from_config` of diffusers keeps those of
the class that the configuration came from, and old files have keys that a class used to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRAINING = "num_train_timesteps prediction_type "
_BETAS = _TRAINING + "beta_start beta_end beta_schedule trained_betas "
_TIMES = "timestep_spacing steps_offset "
_CLIP = "clip_sample clip_sample_range "
_THRESHOLD = "thresholding dynamic_thresholding_ratio sample_max_value "
_ZERO_SNR = "rescale_betas_zero_snr "
_SIGMAS = "use_karras_sigmas use_exponential_sigmas use_beta_sigmas "
_ENDS = "sigma_min sigma_max "
_SHIFT = "use_dynamic_shifting time_shift_type "
_FLOW = "use_flow_sigmas flow_shift " + _SHIFT
_MULTISTEP = "solver_order solver_type lower_order_final "
_DPM = _MULTISTEP + _THRESHOLD + "algorithm_type final_sigmas_type "
_KARRAS = _BETAS + _TIMES + _SIGMAS
_LOGSNR = "lambda_min_clipped variance_type "

_READS = {
    "DDIMInverseScheduler": _BETAS + _TIMES + _CLIP + _ZERO_SNR + "set_alpha_to_one",
    "DDIMScheduler": _BETAS + _TIMES + _CLIP + _THRESHOLD + _ZERO_SNR + "set_alpha_to_one",
    "DDPMScheduler": _BETAS + _TIMES + _CLIP + _THRESHOLD + _ZERO_SNR + "variance_type",
    "DEISMultistepScheduler": _KARRAS + _MULTISTEP + _THRESHOLD + _FLOW + "algorithm_type",
    "DPMSolverMultistepScheduler": _KARRAS
    + _DPM
    + _FLOW
    + _LOGSNR
    + _ZERO_SNR
    + "euler_at_final use_lu_lambdas",
    "DPMSolverSDEScheduler": _KARRAS + "noise_sampler_seed",
    "DPMSolverSinglestepScheduler": _BETAS + _SIGMAS + _DPM + _FLOW + _LOGSNR,
    "EDMDPMSolverMultistepScheduler": _TRAINING
    + _ENDS
    + _DPM
    + "sigma_data sigma_schedule rho euler_at_final",
    "EDMEulerScheduler": _TRAINING + _ENDS + "sigma_data sigma_schedule rho final_sigmas_type",
    "EulerAncestralDiscreteScheduler": _BETAS + _TIMES + _ZERO_SNR,
    "EulerDiscreteScheduler": _KARRAS
    + _ENDS
    + _ZERO_SNR
    + "final_sigmas_type interpolation_type timestep_type",
    "FlowMatchEulerDiscreteScheduler": _SIGMAS
    + _SHIFT
    + "num_train_timesteps shift shift_terminal base_shift max_shift base_image_seq_len "
    + "max_image_seq_len invert_sigmas stochastic_sampling",
    "FlowMatchHeunDiscreteScheduler": "num_train_timesteps shift",
    "HeunDiscreteScheduler": _KARRAS + _CLIP,
    "KDPM2AncestralDiscreteScheduler": _KARRAS,
    "KDPM2DiscreteScheduler": _KARRAS,
    "LCMScheduler": _BETAS
    + _TIMES
    + _CLIP
    + _THRESHOLD
    + _ZERO_SNR
    + "set_alpha_to_one original_inference_steps timestep_scaling",
    "PNDMScheduler": _BETAS + _TIMES + "set_alpha_to_one skip_prk_steps",
    "UniPCMultistepScheduler": _KARRAS
    + _MULTISTEP
    + _THRESHOLD
    + _FLOW
    + _ENDS
    + _ZERO_SNR
    + "predict_x0 disable_corrector solver_p final_sigmas_type shift_terminal",
}
READS: Mapping[str, frozenset[str]] = {
    name: frozenset(keys.split()) for name, keys in _READS.items()
}
"""The keys of a configuration that each class reads."""

KEYS = frozenset().union(*READS.values()) | {
    "clip_denoised",
    "corrector_order",
    "eta",
    "predictor_order",
    "s_noise",
    "snr_shift_scale",
    "tau_func",
}
"""Every known key. Those added at the end are read by classes that no solver here runs."""

_LINSPACE = {"timestep_spacing": "linspace"}
_STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012}
_EDM = {"sigma_min": 0.002, "sigma_max": 80.0}
_FLOW_MATCH = {"process": "flow", "prediction_type": "flow_prediction"}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "DEISMultistepScheduler": {**_LINSPACE, "final_sigmas_type": "sigma_min"},
    "DPMSolverMultistepScheduler": _LINSPACE,
    "DPMSolverSDEScheduler": {**_LINSPACE, **_STABLE_DIFFUSION},
    "DPMSolverSinglestepScheduler": _LINSPACE,
    "EDMDPMSolverMultistepScheduler": _EDM,
    "EDMEulerScheduler": _EDM,
    "EulerAncestralDiscreteScheduler": _LINSPACE,
    "EulerDiscreteScheduler": _LINSPACE,
    "FlowMatchEulerDiscreteScheduler": _FLOW_MATCH,
    "FlowMatchHeunDiscreteScheduler": _FLOW_MATCH,
    "HeunDiscreteScheduler": {**_LINSPACE, **_STABLE_DIFFUSION, "clip_sample": False},
    "KDPM2AncestralDiscreteScheduler": {**_LINSPACE, **_STABLE_DIFFUSION},
    "KDPM2DiscreteScheduler": {**_LINSPACE, **_STABLE_DIFFUSION},
    "LCMScheduler": {
        **_STABLE_DIFFUSION,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
    },
    "PNDMScheduler": {"set_alpha_to_one": False},
    "UniPCMultistepScheduler": _LINSPACE,
}
"""The defaults of a class for missing keys, where they differ from those of `Schedule`."""
