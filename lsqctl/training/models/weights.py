"""First weights for a network: a file, a parent's checkpoint, or a torchvision name.

Nothing here unpickles objects: ``.safetensors``, or torch files read with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from lsqctl.errors import DataError
from lsqctl.training.checkpoint import load_model_state
from lsqctl.training.digest import sha256_of
from lsqctl.training.manifest import manifest_sha256

_QUANTIZER_KEYS = (".input_quantizer.", ".weight_quantizer.", ".residual_quantizers.")
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # googlenet's and inception's, absent from ours


def load_weights(
    model: nn.Module, source: Path | str, *, model_name: str, key: str = "model.weights"
) -> None:
    """Fill ``model`` with the weights of ``source``; every key and shape must fit.

    ``key`` is the recipe's, for the message. Step sizes of a quantized parent are left out: they
    are calibrated anew. Raises DataError.
    """
    model.load_state_dict(fitting(model, source, model_name=model_name, key=key))


def fitting(
    model: nn.Module, source: Path | str, *, model_name: str, key: str
) -> dict[str, Tensor]:
    """Return what ``load_weights`` puts into ``model``, which may be on the meta device."""
    state = read_weights(source, model_name=model_name)
    state = {key: value for key, value in state.items() if not _of_quantizer(key)}
    if str(source).startswith("torchvision:"):
        state = {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}
    _check_fit(model, state, f"{key}: {source} into {model_name}")
    return state


def read_weights(source: Path | str, *, model_name: str) -> dict[str, Tensor]:
    """Return the tensors of a weights file, checkpoint folder, or ``torchvision:NAME``."""
    text = str(source)
    if text.startswith("torchvision:"):
        return _from_torchvision(text.removeprefix("torchvision:"), model_name)
    path = Path(source)
    if path.is_dir():
        return load_model_state(path)
    if not path.is_file():
        raise DataError(f"no weights file {path}")
    return _unwrapped(_read_file(path), path)


def identity(source: Path | str) -> str:
    """Return what names the bytes of ``source``: a sha256, or ``torchvision:NAME``."""
    if str(source).startswith("torchvision:"):
        return str(source)
    path = Path(source)
    if path.is_dir():
        return manifest_sha256(path)
    if not path.is_file():
        raise DataError(f"no weights file {path}")
    return sha256_of(path)


def check_torchvision_weights(name: str, model_name: str) -> None:
    """Raise DataError unless torchvision has weights of this name; nothing is downloaded."""
    _torchvision_weight(name, model_name)


def _of_quantizer(key: str) -> bool:
    return any(part in f".{key}" for part in _QUANTIZER_KEYS)


def _read_file(path: Path) -> Any:
    from safetensors import SafetensorError

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} does not read as weights ({first}); a .safetensors file, or a torch file "
            "that holds tensors only, is needed"
        ) from None


def _unwrapped(found: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of ``{"state_dict": …}`` and of keys that begin with ``module.``."""
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise DataError(f"{path} holds no state dict, that is, no mapping of names to tensors")
    return {str(key).removeprefix("module."): value for key, value in found.items()}


def _check_fit(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    own = model.state_dict()
    optional = "num_batches_tracked"  # older files lack it; batch norm then starts at 0
    missing = [key for key in own if key not in state and not key.endswith(optional)]
    extra = [key for key in state if key not in own]
    if missing or extra:
        raise DataError(
            f"{what}: the keys do not fit; the model lacks in the file: {_five(missing)}; "
            f"the file has besides: {_five(extra)}"
        )
    shapes = [key for key in state if own[key].shape != state[key].shape]
    if shapes:
        theirs = [f"{key} {tuple(state[key].shape)}" for key in shapes]
        ours = [f"{key} {tuple(own[key].shape)}" for key in shapes]
        raise DataError(
            f"{what}: {_other_classes(own, state, shapes)}shapes do not fit; the model has "
            f"{_five(ours)}; the file {_five(theirs)}"
        )


def _other_classes(own: Mapping[str, Tensor], state: Mapping[str, Tensor], keys: list[str]) -> str:
    """Return words for the commonest reason: one layer, the last, has another number of outputs."""
    pairs = [(own[key].shape, state[key].shape) for key in keys]
    counts = {(one[0], other[0]) for one, other in pairs if one[1:] == other[1:]}
    layers = {key.rpartition(".")[0] for key in keys}
    if len(counts) != 1 or len(layers) != 1 or any(a[1:] != b[1:] for a, b in pairs):
        return ""
    here, there = next(iter(counts))
    return f"trained for {there:,} classes, and the data have {here:,}: "


def _five(names: list[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "nothing") + rest


def _from_torchvision(name: str, model_name: str) -> dict[str, Tensor]:
    weight = _torchvision_weight(name, model_name)
    try:
        state: dict[str, Tensor] = weight.get_state_dict(check_hash=True, map_location="cpu")
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            f"the torchvision weights {name} could not be fetched ({error}); fetch them where "
            "there is a network, or give a file in model.weights"
        ) from None
    return state


def _torchvision_weight(name: str, model_name: str) -> Any:
    """Return torchvision's entry for e.g. ``ResNet18_Weights.IMAGENET1K_V1`` or ``DEFAULT``."""
    from torchvision.models import get_model_weights, get_weight

    try:
        return get_weight(name) if "." in name else get_model_weights(model_name)[name]
    except (ValueError, KeyError, AttributeError):
        raise DataError(f"torchvision has no weights `{name}` for {model_name}") from None
