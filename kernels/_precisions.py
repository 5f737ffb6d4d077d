"""The precisions that networks are multiplied in.

Without Triton, so that the operators can ask before it is imported.
"""

import torch

DTYPES = {"full": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
