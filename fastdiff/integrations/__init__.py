"""Models of other libraries, described so that fastdiff can run them."""

from fastdiff.integrations.diffusers import from_diffusers, load_diffusers

__all__ = ["from_diffusers", "load_diffusers"]
