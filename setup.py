"""Builds the native extension. Everything declarative is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

CSRC = Path("csrc")
TORCH_2_10 = "0x020a000000000000"  # oldest torch the stable ABI calls are compiled for

cpu = CppExtension(
    "sodeep_fast._C",
    sorted(str(path) for path in [*CSRC.glob("*.cpp"), *CSRC.glob("cpu/*.cpp")]),
    depends=sorted(str(path) for path in CSRC.glob("**/*.h")),
    include_dirs=[str(CSRC.resolve())],
    extra_compile_args=[
        "-O3",
        "-std=c++17",
        "-ffp-contract=fast",
        f"-DTORCH_TARGET_VERSION={TORCH_2_10}",
    ],
    py_limited_api=True,
)

setup(
    ext_modules=[cpu],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
