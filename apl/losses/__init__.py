"""Every loss by name, as modules, with the last layer, and the theory checked."""

from apl.moved import moved

__getattr__ = moved("apl.losses")
