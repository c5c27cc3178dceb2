"""How good the images are, in numbers that mean the same tomorrow: each travels with the protocol it was measured by.

`meter` measures two sets of images, `report` says what may be compared, `copies` shows whether training images
were learned by heart; the other modules are the figures themselves. Where the images come from is not known here.
"""

from .ms_ssim import mean_ms_ssim
from .sliced_wasserstein import sliced_wasserstein

__all__ = ["mean_ms_ssim", "sliced_wasserstein"]
