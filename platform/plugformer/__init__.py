"""Plugformer: a plugin-based platform for transformer experiments on text, images and audio."""

from plugformer.errors import UserError
from plugformer.registry import build, register

__all__ = ["UserError", "build", "register"]
__version__ = "0.1.0"
