"""What a trained model is on disk: ``model.json`` says what it is, ``model.pt`` holds its weights."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medkd.data.transforms import Preprocessing
from medkd.errors import UserError
from medkd.files import atomic_write, write_json
from medkd.run_folder import DESCRIPTION_FILE, SPLIT_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    import torch
    from torch import nn

# What a model is can be read without torch, which takes seconds to import: only what handles weights imports it.


@dataclass(frozen=True)
class SavedModel:
    """The description of a model, enough to rebuild it and to run it on a new scan.

    Attributes:
        network: name and arguments for :func:`medkd.networks.create_network`.
        preprocessing: how its input is made.
        labels: value to name, background first.
        flips: trained on flipped slices too, so that it does not need to know the side of the body.
        compact: names of labels without necks, from which what hangs on them by one is cut off
            (:func:`~medkd.inference.necks.cut_necks`).
    """

    network: dict[str, Any]
    preprocessing: Preprocessing
    labels: dict[int, str]
    flips: bool = False
    compact: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # The channels of the network are the labels, and masks are uint8.
        if sorted(self.labels) != list(range(len(self.labels))) or not 2 <= len(self.labels) <= 256:
            raise UserError(
                f"the labels {self.labels} are not 0, 1, 2 ... without a gap, 255 at most: number them so in the data "
                "and in dataset.json."
            )
        # A recipe or a file may hold one name, or a list of them.
        object.__setattr__(self, "compact", (self.compact,) if isinstance(self.compact, str) else tuple(self.compact))
        names = [name for value, name in self.labels.items() if value]
        for name in self.compact:
            if name not in names:
                raise UserError(f"compact has {name!r}, which is no label: choose of {', '.join(names)}.")

    def save(self, folder: str | Path, weights: Mapping[str, torch.Tensor]) -> None:
        """Write a model that was trained anywhere, so that it can teach, be evaluated and segment.

        Args:
            folder: to write ``model.json`` and ``model.pt`` to.
            weights: its ``state_dict``.

        Raises:
            UserError: they do not fit the network.
        """
        from medkd.networks import create_network

        network = create_network(**self.network)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError(f"the weights do not fit {self.network}: {error}") from error
        save_tensors(Path(folder) / WEIGHTS_FILE, network.state_dict())
        self.write_description(folder)

    def write_description(self, folder: str | Path) -> None:
        """Write ``model.json``."""
        write_json(Path(folder) / DESCRIPTION_FILE, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The content of ``model.json``."""
        content = asdict(self) | {"preprocessing": self.preprocessing.to_dict()}
        # As descriptions and checkpoints were before there were such words.
        for word in ("flips", "compact"):
            if not content[word]:
                del content[word]
        return content

    @classmethod
    def read(cls, folder: str | Path) -> SavedModel:
        """Read ``model.json``.

        Args:
            folder: of a run, or a bundle (see :func:`model_folder`).

        Raises:
            UserError: the folder holds no model, or one that cannot be read.
        """
        path = model_folder(folder) / DESCRIPTION_FILE
        if not path.is_file():
            raise UserError(
                f"{folder} holds no trained model ({DESCRIPTION_FILE} is missing): give the --out of a run."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                network=dict(content["network"]),
                preprocessing=Preprocessing.from_dict(content["preprocessing"]),
                labels={int(value): str(name) for value, name in content["labels"].items()},
                flips=bool(content.get("flips", False)),
                compact=content.get("compact", ()),
            )
        except UserError as error:
            raise UserError(f"{path} cannot be used: {error}") from error
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error!r}): train the model again.") from error

    @property
    def compact_values(self) -> list[int]:
        """The values of the labels that are compact."""
        return [value for value, name in self.labels.items() if name in self.compact]

    def check_labels(self, labels: Mapping[int, str]) -> SavedModel:
        """Make sure that the model was trained on labels of the same values and names.

        Raises:
            UserError: it was trained on others.
        """
        if self.labels != dict(labels):
            raise UserError(
                f"the model segments {self.labels} but the data is labelled {dict(labels)}: they must agree."
            )
        return self

    def load_network(self, folder: str | Path) -> nn.Module:
        """Build the network and load ``model.pt`` into it, on the CPU, in evaluation mode.

        Raises:
            UserError: the weights are missing, damaged or those of another network.
        """
        from medkd.networks import create_network

        network = create_network(**self.network)
        load_weights(network, model_folder(folder) / WEIGHTS_FILE)
        return network.eval()


def model_folder(folder: str | Path) -> Path:
    """Where in a run or a bundle the model lies: in it, or in its ``models``."""
    folder = Path(folder)
    inside = folder / "models"
    return inside if (inside / DESCRIPTION_FILE).is_file() and not (folder / DESCRIPTION_FILE).is_file() else folder


def saved_network(folder: str | Path, **arguments: Any) -> nn.Module:
    """The network that ``model.json`` describes, without its weights.

    Args:
        folder: of a run, or a bundle.
        arguments: replace those that are described, for example ``name`` or ``channels``.

    Raises:
        UserError: the folder holds no model.
    """
    from medkd.networks import create_network

    return create_network(**{**SavedModel.read(folder).network, **arguments})


def load_model(folder: str | Path) -> nn.Module:
    """The trained network of a run folder, on the CPU, in evaluation mode; see :class:`SavedModel`."""
    return SavedModel.read(folder).load_network(folder)


def run_split_file(folder: str | Path) -> Path:
    """The ``splits.json`` of a run: which cases its model has trained on, and which it has never seen.

    Raises:
        UserError: the folder holds no model, or one without its split.
    """
    SavedModel.read(folder)
    file = model_folder(folder) / SPLIT_FILE
    if not file.is_file():
        raise UserError(
            f"{file} is missing, so nobody knows what the model has seen: put it there, give --split_file, or take all "
            "cases if it has seen none of them (medkd evaluate --split all; a bundle's evaluate.yaml --part all)."
        )
    return file


def model_split_file(folder: str | Path) -> Path | None:
    """The ``splits.json`` beside a model; None where there is none, as with a model that others trained."""
    file = model_folder(folder) / SPLIT_FILE
    return file if file.is_file() else None


def trained_or_shipped(output_dir: str | Path, bundle_root: str | Path) -> str:
    """Where the model of a bundle lies: in ``output_dir`` if one was trained there, else in the bundle's ``models``."""
    is_trained = (Path(output_dir) / DESCRIPTION_FILE).is_file()
    return str(output_dir) if is_trained else str(Path(bundle_root) / "models")


def load_teacher(folder: str | Path, labels: Mapping[int, str]) -> nn.Module:
    """The network of a run folder as a teacher, in channels-last order, which convolutions run fastest in.

    Args:
        folder: run of the teacher.
        labels: value to name, of the data the student learns from.

    Raises:
        UserError: the teacher was trained on other labels.
    """
    from medkd.networks.layout import channels_last

    return channels_last(SavedModel.read(folder).check_labels(labels).load_network(folder))


def save_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Save tensors and plain values atomically, so that ``torch.load(weights_only=True)`` can read them."""
    import torch

    with atomic_write(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:
            # torch reports a full disk as RuntimeError.
            raise OSError(None, "the disk is full or failing") from error


def load_tensors(path: Path) -> dict[str, Any]:
    """Load what :func:`save_tensors` wrote; runs no code from the file.

    Raises:
        UserError: the file is missing or damaged.
    """
    import torch

    if not path.is_file():
        raise UserError(f"{path} is missing: the run has not finished its first epoch, or the file was moved.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(f"{path} is damaged or no checkpoint: train the model again.") from error


def load_weights(network: nn.Module, path: Path, outputs: int | None = None) -> None:
    """Load weights that must fit exactly.

    Args:
        network: as built.
        path: the file.
        outputs: of the network that the weights are of; where this one has another number, the layers that give them
            stay as they are.

    Raises:
        UserError: they are of another network.
    """
    from medkd.networks import count_parameters, network_definition

    weights, own = load_tensors(path), network.state_dict()
    if outputs is not None:
        numbers = (outputs, network_definition(network).get("out_channels", 1))
        for name in own.keys() & weights.keys():
            sizes = list(zip(weights[name].shape, own[name].shape, strict=False))
            differing = [pair for pair in sizes if pair[0] != pair[1]]
            if differing == [numbers] and weights[name].ndim == own[name].ndim:
                weights[name] = own[name]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            f"{path} holds the weights of another network than {type(network).__name__} with "
            f"{count_parameters(network):,} parameters: check the network's name, channels and number of labels."
        ) from error
