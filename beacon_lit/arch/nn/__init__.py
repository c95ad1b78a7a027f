"""Compute on tensors: projections, rotation, attention kernels, gathers, selection, the loss of a head."""
