"""First weights for a network: a file, a parent's checkpoint, or a torchvision name.

Nothing here unpickles objects: ``.safetensors``, or torch files read with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.error import URLError

import torch
from torch import Tensor, nn

from lsqctl.bundled import file_sha256
from lsqctl.errors import DataError
from lsqctl.quant import LsqQuantizer, quantizers
from lsqctl.quant.quantizer import QuantizerState
from lsqctl.text import format_bytes
from lsqctl.training.checkpoint import load_model_state
from lsqctl.training.checkpoint_files import manifest_sha256

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

_QUANTIZER_KEYS = (".input_quantizer.", ".weight_quantizer.", ".residual_quantizers.")
# What torch.load raises for bytes that are damaged, or never were its own.
_READ_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError),
    *(OSError, RuntimeError, TypeError, ValueError),
    *(pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)
_AUX_PREFIXES = ("aux1.", "aux2.", "AuxLogits.")  # googlenet's and inception's, never built here


class LoadedWeights(NamedTuple):
    """What is to be known of weights that were loaded.

    ``parent_steps`` is what a quantized parent holds besides: ``load_step_sizes`` takes of it what
    fits once the model is prepared. ``new_head`` says which classifier was replaced, if any.
    """

    parent_steps: dict[str, Tensor]
    new_head: str = ""


def load_weights(
    model: nn.Module,
    source: Path | str,
    *,
    model_name: str,
    key: str = "model.weights",
    head: str = "",
) -> LoadedWeights:
    """Fill ``model`` with the weights of ``source``; every key and shape must fit.

    ``key`` is the recipe's, for the message. ``head`` names the classifier, which stays as it is
    where the weights have one of another number of classes. Raises DataError.
    """
    state = read_weights(source, model_name=model_name)
    new_head = replaced_head(model, state, head)
    if new_head:
        state = _with_own_head(model, state, head)
    model.load_state_dict(_select_matching(model, state, source, model_name=model_name, key=key))
    return LoadedWeights({k: v for k, v in state.items() if _is_quantizer_key(k)}, new_head)


def replaced_head(model: nn.Module, state: Mapping[str, Tensor], head: str) -> str:
    """Return which classifier is replaced and why, in one phrase; nothing where it fits as it is.

    Only another number of classes is a reason: weights of other features do not fit, and stay so.
    """
    weight = f"{head}.weight"
    own = model.state_dict().get(weight)
    loaded = state.get(weight)
    if not head or own is None or loaded is None:
        return ""
    if own.shape[0] == loaded.shape[0] or own.shape[1:] != loaded.shape[1:]:
        return ""
    return f"a new classifier `{head}`: {own.shape[0]:,} classes, not {loaded.shape[0]:,}"


def _with_own_head(model: nn.Module, state: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """Return the state with the model's own classifier, and no step size of the one replaced."""
    prefix = f"{head}."
    own = {key: value for key, value in model.state_dict().items() if key.startswith(prefix)}
    return {key: value for key, value in state.items() if not key.startswith(prefix)} | own


def load_step_sizes(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Take over the learned step sizes of a quantized parent; return a note on what was done.

    ``state`` is what ``load_weights`` returned. Kept is what has the same bits, sign and
    granularity in ``model``, which is prepared, and stays calibrated; all else is left to
    ``calibrate``. No note where the parent has no step sizes.
    """
    if not any(key.endswith(".step_size") for key in state):
        return []
    by_name = quantizers(model)
    kept = [name for name, quantizer in by_name.items() if _take_over(quantizer, name, state)]
    if len(kept) == len(by_name):
        return [f"all {len(kept)} learned step sizes were kept: same bits, sign and granularity"]
    return [
        f"{len(kept)} of {len(by_name)} learned step sizes were kept, the others are calibrated "
        "anew: the weights come with other bits, sign or granularity, or do not say which"
    ]


def _take_over(quantizer: LsqQuantizer, name: str, state: Mapping[str, Tensor]) -> bool:
    """Load one quantizer's state where it was calibrated for the same grid."""
    prefix = f"{name}."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    current, flags = quantizer.state_dict(), own.get("_extra_state")
    if flags is None or own.keys() != current.keys():
        return False
    stored = QuantizerState.from_tensor(flags)
    same_shapes = all(own[k].shape == v.shape for k, v in current.items() if k != "_extra_state")
    known = stored.calibrated and stored.grid is not None
    if not (known and same_shapes and stored.fits(quantizer.spec)):
        return False
    quantizer.load_state_dict(own)
    return True


def check_weights(
    model: nn.Module, source: Path | str, *, model_name: str, key: str, head: str
) -> str:
    """Check what ``load_weights`` would do to ``model``, which may be on the meta device.

    Return which classifier it would replace. Raises DataError.
    """
    state = read_weights(source, model_name=model_name)
    new_head = replaced_head(model, state, head)
    if new_head:
        state = _with_own_head(model, state, head)
    _select_matching(model, state, source, model_name=model_name, key=key)
    return new_head


def _select_matching(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: Path | str,
    *,
    model_name: str,
    key: str,
) -> dict[str, Tensor]:
    state = {key: value for key, value in state.items() if not _is_quantizer_key(key)}
    if str(source).startswith("torchvision:"):
        state = {key: value for key, value in state.items() if not key.startswith(_AUX_PREFIXES)}
    remedy = " (`model.head: new` gives the network a new classifier)"
    _check_fit(
        model,
        state,
        f"{key}: {source} into {model_name}",
        remedy if key.endswith("model.weights") else "",
    )
    return state


def read_weights(source: Path | str, *, model_name: str) -> dict[str, Tensor]:
    """Return the tensors of a weights file, checkpoint folder, or ``torchvision:NAME``."""
    text = str(source)
    if text.startswith("torchvision:"):
        return _load_torchvision(text.removeprefix("torchvision:"), model_name)
    path = Path(source)
    if path.is_dir():
        return load_model_state(path)
    if not path.is_file():
        raise DataError(f"no weights file {path}")
    return _unwrap_state_dict(_read_file(path), path)


def weights_digest(source: Path | str) -> str:
    """Return what names the bytes of ``source``: a sha256, or ``torchvision:NAME``."""
    if str(source).startswith("torchvision:"):
        return str(source)
    path = Path(source)
    if path.is_dir():
        return manifest_sha256(path)
    if not path.is_file():
        raise DataError(f"no weights file {path}")
    return file_sha256(path)


def check_torchvision_weights(name: str, model_name: str) -> None:
    """Raise DataError unless torchvision has weights of this name; nothing is downloaded."""
    _torchvision_entry(name, model_name)


def _is_quantizer_key(key: str) -> bool:
    return any(part in f".{key}" for part in _QUANTIZER_KEYS)


def _read_file(path: Path) -> object:
    from safetensors import SafetensorError

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        _refuse_zip_bomb(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (*_READ_ERRORS, SafetensorError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{path} does not read as weights ({first_line}); a .safetensors file, or a torch file "
            "that holds tensors only, is needed"
        ) from None


def _refuse_zip_bomb(path: Path) -> None:
    """Raise ValueError for entries larger than the file: torch.save compresses none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"its parts are compressed and would take {format_bytes(size)}")


def _unwrap_state_dict(loaded: object, path: Path) -> dict[str, Tensor]:
    """Return the tensors of ``{"state_dict": …}`` and of keys that begin with ``module.``."""
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise DataError(f"{path} holds no state dict, that is, no mapping of names to tensors")
    for key, value in loaded.items():
        if fault := _tensor_fault(value):
            raise DataError(f"{path}: {key} {fault}")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


def _tensor_fault(tensor: Tensor) -> str:
    """Return why a tensor cannot be a weight, or nothing."""
    if tensor.layout != torch.strided:
        return f"is not a dense tensor ({tensor.layout})"
    if tensor.is_meta:
        return "is on the meta device: it has no values"
    if tensor.is_complex() or tensor.dtype == torch.bool:
        return f"is {tensor.dtype}; weights are real numbers"
    if tensor.is_floating_point() and not tensor.isfinite().all():
        return "is not finite: it holds NaN or infinity"
    return ""


def _check_fit(
    model: nn.Module, state: Mapping[str, Tensor], label: str, class_remedy: str
) -> None:
    model_state = model.state_dict()
    optional = "num_batches_tracked"  # older files lack it; batch norm then starts at 0
    missing = [key for key in model_state if key not in state and not key.endswith(optional)]
    unexpected = [key for key in state if key not in model_state]
    if missing or unexpected:
        raise DataError(
            f"{label}: the keys do not fit; the model lacks in the file: {_first_five(missing)}; "
            f"the file has besides: {_first_five(unexpected)}"
        )
    mismatched = [key for key in state if model_state[key].shape != state[key].shape]
    if mismatched:
        file_shapes = [f"{key} {tuple(state[key].shape)}" for key in mismatched]
        model_shapes = [f"{key} {tuple(model_state[key].shape)}" for key in mismatched]
        raise DataError(
            f"{label}: {_class_count_hint(model_state, state, mismatched, class_remedy)}shapes "
            "do not fit; the model has "
            f"{_first_five(model_shapes)}; the file {_first_five(file_shapes)}"
        )


def _class_count_hint(
    model_state: Mapping[str, Tensor], state: Mapping[str, Tensor], keys: list[str], remedy: str
) -> str:
    """Return the commonest reason, or "": one layer, the last, has another number of outputs."""
    pairs = [(model_state[key].shape, state[key].shape) for key in keys]
    counts = {
        (model_shape[0], file_shape[0])
        for model_shape, file_shape in pairs
        if model_shape[1:] == file_shape[1:]
    }
    layers = {key.rpartition(".")[0] for key in keys}
    if len(counts) != 1 or len(layers) != 1 or any(a[1:] != b[1:] for a, b in pairs):
        return ""
    model_classes, file_classes = next(iter(counts))
    return f"trained for {file_classes:,} classes, and the data have {model_classes:,}{remedy}: "


def _first_five(names: list[str]) -> str:
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "nothing") + rest


def _load_torchvision(name: str, model_name: str) -> dict[str, Tensor]:
    weight = _torchvision_entry(name, model_name)
    try:
        state: dict[str, Tensor] = weight.get_state_dict(check_hash=True, map_location="cpu")
    except (URLError, OSError, RuntimeError) as error:
        raise DataError(
            f"the torchvision weights {name} could not be fetched ({error}); fetch them where "
            "there is a network, or give a file in model.weights"
        ) from None
    return state


def _torchvision_entry(name: str, model_name: str) -> WeightsEnum:
    """Return torchvision's entry for e.g. ``ResNet18_Weights.IMAGENET1K_V1`` or ``DEFAULT``."""
    from torchvision.models import get_model_weights, get_weight

    try:
        return get_weight(name) if "." in name else get_model_weights(model_name)[name]
    except (ValueError, KeyError, AttributeError):
        raise DataError(f"torchvision has no weights `{name}` for {model_name}") from None
