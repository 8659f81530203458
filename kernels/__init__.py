"""Losses on tensors: logits, targets, values, gradients, and nothing else.

`reference` is the specification, `dispatch.loss` the same thing as fast as this machine can;
`apl.make_loss` is the door most users want.  Installed as `apl.kernels`.
"""
