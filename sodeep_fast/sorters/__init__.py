"""The sorters: modules that turn scores into differentiable ranks."""
