"""The precisions of the products in networks.

This module does not need Triton, so that operators can use it before Triton is imported.
"""

import torch

DTYPES = {"full": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
