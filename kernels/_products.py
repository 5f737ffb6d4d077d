"""The types that kernels compute and multiply in, as Triton types."""

import torch
import triton
import triton.language as tl

from sodeep_fast.kernels._precisions import DTYPES


def triton_dtype(dtype: torch.dtype) -> tl.dtype:
    """Returns Triton's type of the same name."""
    return getattr(tl, str(dtype).removeprefix("torch."))


TRITON_DTYPES = {products: triton_dtype(dtype) for products, dtype in DTYPES.items()}


def operand_dtype(products: str) -> tl.dtype:
    """Returns the type that rounded numbers are multiplied in.

    It is the type that they are rounded to, except in Triton's interpreter, which cannot multiply
    bfloat16.
    """
    interpreted = triton.knobs.runtime.interpret and products == "bf16"
    return tl.float32 if interpreted else TRITON_DTYPES[products]
