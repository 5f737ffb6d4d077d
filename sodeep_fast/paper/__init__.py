"""Reproduces SoDeep's tables and figures (Engilberge et al., CVPR 2019): `sodeep-fast paper`."""
