"""What is asked: presets, published settings, one run's config, a study's grid, what is
tuned in it."""

from apl.moved import moved

__getattr__ = moved("apl.config")
