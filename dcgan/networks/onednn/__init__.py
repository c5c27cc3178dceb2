"""Training on CPUs by the oneDNN library that Paddle's wheel brings along: see `layers.OneDnnKernels`.

library.py      finds and checks the library           primitives.py   its calculations, on addresses
layers.py       the networks' layers made of them, with their gradients, on Paddle's tensors
speed.py        whether bfloat16 is faster than float32 here
"""

from .layers import OneDnnKernels
from .library import OneDnnUnavailableError, has_bfloat16

__all__ = ["OneDnnKernels", "OneDnnUnavailableError", "has_bfloat16"]
