"""What remains of a run and of a study.

run: the folder of a run; record: the runs of a study; tuned: what was tried and chosen in it;
scores: what predictions score (`Scores`) and what a run came to (`Result`), the names of the
history's columns, which `apl.training.fit.Counts` fills in, and the verdicts.
"""

from apl.moved import moved

__getattr__ = moved("apl.runs")
