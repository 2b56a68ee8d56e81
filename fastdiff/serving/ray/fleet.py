"""How many replicas there are, and what each of them has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastdiff.errors import InvalidArgument

_HEALTH_PERIOD_SECONDS = 2.0


@dataclass(frozen=True)
class Fleet:
    """How many replicas there are, what each of them has, and how they come and go.

    Attributes
    ----------
    replicas : int
        At least.
    max_replicas : int or None
        At most, when there is more to do than `target_ongoing_requests` for each; None for as many
        as at least.
    target_ongoing_requests : float
        Requests that one replica shall have at a time, waiting or running, on average.
    num_cpus, num_gpus : float
        Of each replica. Ray gives it the threads and the devices to match.
    drain_seconds : float
        How long a replica that is not needed any more goes on with what it has.
    """

    replicas: int = 1
    max_replicas: int | None = None
    target_ongoing_requests: float = 16.0
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    drain_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise InvalidArgument(f"replicas: expected at least 1, got {self.replicas}")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise InvalidArgument(
                f"max_replicas: expected at least {self.replicas}, got {self.max_replicas}"
            )

    @property
    def options(self) -> dict[str, Any]:
        """What Ray Serve is told of the replicas."""
        scaling = {
            "min_replicas": self.replicas,
            "max_replicas": self.max_replicas or self.replicas,
            "target_ongoing_requests": self.target_ongoing_requests,
        }
        return {
            "autoscaling_config": scaling,
            "ray_actor_options": {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus},
            "graceful_shutdown_timeout_s": self.drain_seconds,
            "health_check_period_s": _HEALTH_PERIOD_SECONDS,
        }
