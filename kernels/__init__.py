"""The Triton kernels, one file per operator, and the host's side of the LSTM's CUDA C++ kernels.

Installed as `sodeep_fast.kernels`.
"""
