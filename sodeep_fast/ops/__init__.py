"""The operators: public function, argument checks, fake, autograd and vmap rules.

Of arithmetic, what prepares a kernel's inputs or takes its place in PyTorch.
"""
