"""Measuring programs for developers; the engine they use is `sodeep_fast.benchmark`."""
