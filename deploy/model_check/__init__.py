"""What a model file may hold, checked before any runtime sees a byte of it: the operators of our exports, in bounds.

A runtime executes whatever a file says: endless loops, functions that double each other, gigabytes from a few bytes,
reading of other files, and (Paddle) operators that write files. So only what `tools/export.py` writes may run:
one chain of convolutions and what stands between them, weights in the file itself, and every intermediate image of a
size that is followed from layer to layer. Standard library only.
"""

from deploy.model_check.onnx_model import check_onnx
from deploy.model_check.paddle_program import check_paddle

__all__ = ["check_onnx", "check_paddle"]
