"""Several replicas of a server behind one route, on Ray Serve (``docs/scale-out.md``)."""

from fastdiff.serving.ray.deployment import Fleet, application, build, deploy

__all__ = ["Fleet", "application", "build", "deploy"]
