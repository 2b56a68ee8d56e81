"""Two compiled models in one process, used from many threads."""

import threading

import torch
from networks import eager_sampler, row_by_row_network


def test_two_samplers_used_from_eight_threads_give_the_same_images_as_alone():
    samplers = [eager_sampler(row_by_row_network(), batch=batch) for batch in (2, 3)]
    solvers = ("ddim", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde")

    def options(thread):
        return {
            "solver": solvers[thread % 4],
            "steps": 3 + thread,
            "seed": thread,
            "class_labels": [thread % 4, 1, 2],
            "guidance_scale": 1.0 + thread % 3,
        }

    alone = [samplers[thread % 2].sample(**options(thread)) for thread in range(8)]
    together: dict[int, list[torch.Tensor]] = {thread: [] for thread in range(8)}

    def client(thread):
        for _ in range(3):
            together[thread].append(samplers[thread % 2].sample(**options(thread)))

    threads = [threading.Thread(target=client, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for thread, images in together.items():
        assert len(images) == 3
        assert all(torch.equal(image, alone[thread]) for image in images)
