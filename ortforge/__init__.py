"""ortforge: builds ONNX Runtime, and says which model variant on which build is correct and fast."""

from typing import Final

__all__ = ["__version__"]

__version__: Final = "0.1.0"
