"""The Triton kernels, one file per operator. Installed as `sodeep_fast.kernels`."""
