"""Losses, weights of samples and losses of the user's own.

`cases` are all losses and what they are compared with: PyTorch's where it is installed, and where
that has no such loss, its formula.
"""
