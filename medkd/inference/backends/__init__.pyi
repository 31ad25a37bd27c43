from .backend import AUTO, BACKENDS, Backend
from .choose import create_backend
from .torch_backend import TorchBackend

__all__ = ["AUTO", "BACKENDS", "Backend", "TorchBackend", "create_backend"]
