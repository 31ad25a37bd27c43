"""Where the ONNX file of a model lies, and what is known of it on this machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medkd.data.cache import cache_folder
from medkd.engines.saved_model import SavedModel, model_folder
from medkd.errors import UserError
from medkd.files import atomic_write, write_json
from medkd.lock import lock
from medkd.onnx_runtime import import_onnxruntime
from medkd.run_folder import DESCRIPTION_FILE, WEIGHTS_FILE

ONNX_FILE = "model.onnx"


def model_hash(folder: str | Path) -> str:
    """SHA-256 of a model's description and weights, and of the ONNX file beside them if there is one, in hex.

    Raises:
        UserError: a file is missing or cannot be read.
    """
    digest = hashlib.sha256()
    files = [model_folder(folder) / name for name in (DESCRIPTION_FILE, WEIGHTS_FILE, ONNX_FILE)]
    for file in files if files[-1].is_file() else files[:-1]:
        try:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror or error}): give the folder of a run.") from error
    return digest.hexdigest()


class OnnxFile:
    """The ONNX file of a model: beside its weights, or made on first use and kept in the user's cache.

    Args:
        folder: of a run, or a bundle.
        key: of the model, see :func:`model_hash`.
    """

    def __init__(self, folder: str | Path, key: str) -> None:
        self._run = folder
        self._cache = cache_folder() / "models" / key[:32]
        beside = model_folder(folder) / ONNX_FILE
        self.path = beside if beside.is_file() else self._cache / ONNX_FILE

    def make(self) -> None:
        """Write it where it is missing.

        Raises:
            UserError: onnx is not installed, the network cannot be written as ONNX, or the cache cannot be written.
        """
        if _is_file(self.path):
            return
        # Before the export does it: loaded the other way it has told its makers already.
        import_onnxruntime()
        from medkd.export.onnx import write_onnx

        model = SavedModel.read(self._run)
        network = model.load_network(self._run)
        with atomic_write(self.path) as temporary:
            try:
                write_onnx(network, model, temporary)
            except (UserError, OSError):
                raise
            except Exception as error:  # Tracing fails in as many ways as there are networks.
                raise UserError(
                    f"the model of {self._run} cannot be written as ONNX: choose the backend torch."
                ) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from finding out the same at the same time, where the system can."""
        try:
            self._cache.mkdir(parents=True, exist_ok=True)
            stream = (self._cache / ".lock").open("a")
        except OSError:
            yield
            return
        with stream:
            lock(stream, wait=True)
            yield

    def known(self) -> dict[str, Any]:
        """What :meth:`remember` kept of this very file; empty if nothing."""
        try:
            content: dict[str, Any] = json.loads((self._cache / self._memory()).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content

    def remember(self, content: dict[str, Any]) -> None:
        """Keep what was found out about this file; where the cache cannot be written it is found out again."""
        try:
            write_json(self._cache / self._memory(), content)
        except UserError:
            return

    def _memory(self) -> str:
        content = self.path.read_bytes() if _is_file(self.path) else b""
        return f"backends-{hashlib.sha256(content).hexdigest()[:16]}-{os.cpu_count()}.json"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # Its folder is not open to this user.
        return False
