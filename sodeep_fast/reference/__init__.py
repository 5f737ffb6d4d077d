"""The specification: every operator and loss in plain, differentiable PyTorch."""
