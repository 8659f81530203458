"""What remains of a run and of a study: folders, the record, scores and results."""

from apl.moved import moved

__getattr__ = moved("apl.runs")
