"""The losses: one file each, the function of scores and its module."""
