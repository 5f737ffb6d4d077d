"""Else pytest, given one file, would run a module that the package imports a second time."""

import sodeep_fast as sodeep_fast
