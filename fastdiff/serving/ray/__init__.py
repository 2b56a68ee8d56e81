"""Several replicas of a server behind one route, on Ray Serve (``docs/scale-out.md``)."""

from fastdiff.serving.ray.deployment import application, build, deploy
from fastdiff.serving.ray.fleet import Fleet

__all__ = ["Fleet", "application", "build", "deploy"]
