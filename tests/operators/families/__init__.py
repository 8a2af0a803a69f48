"""The cases, a module for each family of operators. Importing them declares their cases."""

from . import (attention, contributed, control, elementwise, losses, movement, normalization, picking,  # noqa: F401
               products, recurrent, reduction, resize, sampling, signal, sizes, windows)
