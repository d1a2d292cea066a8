"""The Recipe: one complete experiment as a frozen value that checks itself.  No I/O, no torch.

A recipe says *what* is trained. Where data lies, devices, threads and workers are never part of
it. ``recipe_file`` makes recipes from YAML; every key's type, default, unit and meaning stands
in ``sections`` or ``train_section`` once and is printed by ``lsqctl recipe schema`` and in
``recipes/README.md``.
"""

from lsqctl.recipe.catalog import (
    DATASETS,
    DEPTHWISE_MODELS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MODEL_NAMES,
    BUILTIN_MODELS,
    TIMM_PREFIX,
    TORCHVISION_MODELS,
    DatasetInfo,
    weights_hint,
)
from lsqctl.recipe.fields import Section
from lsqctl.recipe.identity import fingerprint
from lsqctl.recipe.names import is_valid_name
from lsqctl.recipe.quant_section import OverrideSection, QuantSection
from lsqctl.recipe.sections import (
    DataSection,
    DistillSection,
    ModelSection,
    RunRef,
)
from lsqctl.recipe.together import KeyConflict, cross_check, derived_defaults
from lsqctl.recipe.train_section import TrainSection
from lsqctl.recipe.whole import Recipe, load_stored

__all__ = [
    "DATASETS",
    "DEPTHWISE_MODELS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "MODEL_NAMES",
    "BUILTIN_MODELS",
    "TIMM_PREFIX",
    "TORCHVISION_MODELS",
    "DataSection",
    "DatasetInfo",
    "DistillSection",
    "ModelSection",
    "OverrideSection",
    "KeyConflict",
    "QuantSection",
    "Recipe",
    "RunRef",
    "Section",
    "TrainSection",
    "cross_check",
    "derived_defaults",
    "fingerprint",
    "load_stored",
    "is_valid_name",
    "weights_hint",
]
