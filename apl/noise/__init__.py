"""Labels and their noise: matrices, draws, noise that depends on the sample, files."""

from apl.moved import moved

__getattr__ = moved("apl.noise")
