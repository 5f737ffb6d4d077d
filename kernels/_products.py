"""The types that kernels multiply in."""

import triton
import triton.language as tl

TRITON_DTYPES = {"full": tl.float32, "bf16": tl.bfloat16, "fp16": tl.float16}


def operand_dtype(products: str) -> tl.dtype:
    """Returns the type that rounded numbers are multiplied in.

    It is the type that they are rounded to, but for Triton's interpreter, which cannot multiply
    bfloat16.
    """
    interpreted = triton.knobs.runtime.interpret and products == "bf16"
    return tl.float32 if interpreted else TRITON_DTYPES[products]
