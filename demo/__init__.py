"""What the library is for, on real data: `make demo`, or `python -m demo` in a clone."""
