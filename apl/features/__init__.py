"""Frozen features: what a pretrained network, or a count of words, says of images and texts.

`catalog` has what there is by name, in words; `make_backbone` makes one; `store` keeps what was
computed once; `embed` turns a data set into one of features.
"""
