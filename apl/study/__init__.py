"""Many runs: the grid on one machine or on many, time left, trackers."""

from apl.moved import moved

__getattr__ = moved("apl.study")
