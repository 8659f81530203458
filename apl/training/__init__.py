"""One run: what is trained, how, and what it scores.

train: a run from top to bottom, which is where to begin to read.  What it is made of: listener (who
hears and may stop it), machine (where it runs), prepare (data, labels, loss and network of a
config), networks, batches, fit (steps, checkpoints, and `Counts` of what an epoch showed), evaluate
(what a network says of images, and a trained run read again), ddp (several processes).  What is
kept of a run, and what its scores mean, stands in `apl.runs`.
"""
