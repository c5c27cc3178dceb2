"""How good the pictures are, in numbers that mean the same tomorrow: each travels with the protocol it was measured by.

`meter` measures two sets of pictures, `report` says what may be compared, `copies` shows whether training pictures
were learned by heart; the other modules are the figures themselves. Where the pictures come from is not known here.
"""

from .similarity import mean_similarity
from .wasserstein import sliced_wasserstein

__all__ = ["mean_similarity", "sliced_wasserstein"]
