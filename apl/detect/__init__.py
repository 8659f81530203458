"""Which labels are wrong.

evidence: scores and findings from arrays; monitor: what gathers evidence in a training; search:
trainings made to find; review: what goes out to people and programs, with a page (gallery).
"""
