"""The cases, a module for each family of operators. Importing them declares their cases."""

from . import (attention, control, elementwise, movement, normalization,  # noqa: F401
               picking, products, recurrent, reduction, resize, windows)
