"""`sampler.sample` beside the diffusers pipeline, for ``pytest benchmarks``."""

import pytest

import fastdiff
from benchmarks.sampling import peer_pipeline


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("who", ["fastdiff", "diffusers"])
def test_fifty_steps_of_digits(benchmark, who, batch):
    benchmark.group = f"50 DDIM steps, batch {batch}"
    if who == "fastdiff":
        sampler = fastdiff.compile("digits")
        benchmark(sampler.sample, batch, steps=50, seed=0)
    else:
        pipeline = peer_pipeline()
        benchmark(pipeline, batch_size=batch, num_inference_steps=50, output_type="np")
