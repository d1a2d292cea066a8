"""The Recipe: one complete experiment as a frozen value that checks itself.  No I/O, no torch.

A recipe says *what* is trained. Where data lies, devices, threads and workers are never part of
it. ``recipe_file`` makes recipes from YAML; every key's type, default, unit and meaning stands
in ``sections`` or ``train_section`` once and is printed by ``lsqctl recipe schema`` and in
``recipes/README.md``.
"""

from lsqctl.recipe.cross_checks import KeyConflict, cross_check, derived_defaults
from lsqctl.recipe.quant_section import OverrideSection, QuantSection
from lsqctl.recipe.ranks import check_ranks, possible_ranks
from lsqctl.recipe.recipe import (
    MAX_NAME_PART,
    NAME_PART_RULE,
    Recipe,
    fingerprint,
    is_valid_name,
    load_stored,
    plugins_of,
)
from lsqctl.recipe.sections import (
    WEIGHT_SUFFIXES,
    DataSection,
    DistillSection,
    ExtensionSection,
    ModelSection,
    RunRef,
    Section,
)
from lsqctl.recipe.train_section import StopSection, TrainSection

__all__ = [
    "MAX_NAME_PART",
    "NAME_PART_RULE",
    "WEIGHT_SUFFIXES",
    "DataSection",
    "DistillSection",
    "ExtensionSection",
    "KeyConflict",
    "ModelSection",
    "OverrideSection",
    "QuantSection",
    "Recipe",
    "RunRef",
    "Section",
    "StopSection",
    "TrainSection",
    "check_ranks",
    "cross_check",
    "derived_defaults",
    "fingerprint",
    "is_valid_name",
    "load_stored",
    "plugins_of",
    "possible_ranks",
]
