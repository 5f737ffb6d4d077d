"""Without this import, pytest, given one file of the package, would run its module twice."""

import sodeep_fast as sodeep_fast
