"""Many runs.

run: a study from its cells to its record; tune: one whose settings are chosen first; clock: the
time left; cells: one of them trained, in processes (of this machine) or by ray (on a cluster);
trackers: who else hears of the runs.
"""

from apl.moved import moved

__getattr__ = moved("apl.study")
