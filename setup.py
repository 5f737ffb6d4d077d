"""Builds the native libraries. Everything declarative is in pyproject.toml.

The CUDA library is built if nvcc is found, even with a CPU build of torch, which CUDAExtension
would refuse: its .cu files include no torch headers, so plain nvcc compiles them.
SODEEP_FAST_CUDA=0 skips it and =1 requires it; SODEEP_FAST_CUDA_ARCHS selects architectures ("90").
"""

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, get_cxx_compiler

CSRC = Path("csrc")
CUDA_HOME = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
NVCC = CUDA_HOME / "bin/nvcc"
ARCHS = re.findall(r"\d+[a-z]?", os.environ.get("SODEEP_FAST_CUDA_ARCHS") or "80;90;100")
ARCHS.sort(key=lambda arch: int(arch.rstrip("abcdefghijklmnopqrstuvwxyz")))
# The calls of the stable ABI are compiled for torch 2.10, the oldest supported.
FLAGS = [
    "-O3",
    "-g0",
    "-std=c++17",
    "-ffp-contract=fast",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]


def wants_cuda():
    forced = os.environ.get("SODEEP_FAST_CUDA")
    if forced == "1" and not NVCC.exists():
        sys.exit(f"SODEEP_FAST_CUDA=1, but there is no {NVCC}; set CUDA_HOME to the toolkit")
    return forced != "0" and NVCC.exists()


def extension(name, folder, sources, flags=(), **options):
    """Describes a library whose own code is in a folder of csrc/."""
    shared = [*CSRC.glob("*.h"), *CSRC.glob("math/*.h")]
    own = [path for path in (CSRC / folder).rglob("*.*") if path.suffix != ".cpp"]
    return CppExtension(
        f"sodeep_fast.{name}",
        sorted(map(str, sources)),
        depends=sorted(map(str, [*shared, *own])),
        include_dirs=[str(CSRC.resolve())],
        extra_compile_args=[*FLAGS, *flags],
        py_limited_api=True,
        **options,
    )


class Build(BuildExtension):
    """Compiles csrc/cuda/*.cu with nvcc, then everything else as usual."""

    def nvcc(self, source):
        target = Path(self.build_temp).resolve() / f"{source.stem}.cu.o"
        target.parent.mkdir(parents=True, exist_ok=True)
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHS]
        newer = f"-gencode=arch=compute_{ARCHS[-1]},code=compute_{ARCHS[-1]}"
        flags = ["-O3", "-std=c++17", "-Xcompiler=-fPIC", "--threads=0", f"-I{CSRC}"]
        subprocess.check_call([NVCC, *flags, *codes, newer, "-c", source, "-o", target])
        return str(target)

    def build_extension(self, ext):
        if ext.name.endswith("_C_cuda"):
            with ThreadPoolExecutor() as pool:
                ext.extra_objects = list(pool.map(self.nvcc, sorted(CSRC.glob("cuda/*.cu"))))
        super().build_extension(ext)


modules = []
# The name may follow that of a launcher, such as ccache.
if all(map(shutil.which, get_cxx_compiler().split())):
    modules.append(extension("_C", "cpu", [*CSRC.glob("*.cpp"), *CSRC.glob("cpu/*.cpp")]))
    if wants_cuda():
        # Links libtorch even if not needed: the loader finds libtorch_cuda, if there is one, by it.
        cudart = ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]
        link = [f"-L{CUDA_HOME}/lib64", *cudart, "-Wl,--no-as-needed", "-ltorch"]
        sources, flags = CSRC.glob("cuda/*.cpp"), ["-DUSE_CUDA"]
        modules.append(extension("_C_cuda", "cuda", sources, flags, extra_link_args=link))
elif os.environ.get("SODEEP_FAST_CUDA") == "1":
    sys.exit("SODEEP_FAST_CUDA=1, but there is no C++ compiler")
else:
    print("sodeep_fast: no C++ compiler, so no kernels; operators will run on plain PyTorch")

setup(
    ext_modules=modules,
    cmdclass={"build_ext": Build},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
