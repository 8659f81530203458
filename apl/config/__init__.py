"""What is asked: presets, published settings, one run's config, a study's grid."""

from apl.moved import moved

__getattr__ = moved("apl.config")
