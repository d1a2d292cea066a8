"""Registries: one declaration a name, read without importing, the same as what importing makes."""

from __future__ import annotations

import importlib
import subprocess
import sys
import uuid
from dataclasses import dataclass

import pytest

from lsqctl.datasets import DATASETS
from lsqctl.errors import NotFound
from lsqctl.models import MODELS
from lsqctl.recipe import DataSection, Recipe
from lsqctl.registry import Registry

PACKAGE = '"""Toys."""\n'
CAR = """import torch_is_not_here

@toy("car", wheels=4)
def car():
    ...
"""
CYCLES = """
from toy_registry import toy

@toy(
    '''
    tricycle
    unicycle
    ''',
    wheels=3,
)
class Cycle:
    def __init__(self, name, *, colour):
        self.said = f"a {colour} {name}"
"""


@dataclass(frozen=True)
class ToyInfo:
    wheels: int = 4


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Return a maker of registries of a package with the modules given."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(**modules):
        package = tmp_path / f"toys_{uuid.uuid4().hex}"
        package.mkdir()
        importlib.invalidate_caches()
        (package / "__init__.py").write_text(PACKAGE)
        for name, source in modules.items():
            (package / f"{name}.py").write_text(source)
        return Registry(package.name, "toy", ToyInfo, noun="toy")

    return make


def test_what_is_said_of_a_name_is_known_without_importing_its_module(toys):
    registry = toys(car=CAR)
    assert dict(registry) == {"car": ToyInfo(wheels=4)}
    with pytest.raises(ModuleNotFoundError, match="torch_is_not_here"):
        registry.load("car")


def test_a_family_is_told_which_of_its_names_was_asked_for(toys, tmp_path):
    registry = toys(cycles=CYCLES)
    (tmp_path / "toy_registry.py").write_text(
        "from tests.test_registry import ToyInfo\nfrom lsqctl.registry import Registry\n"
        "toy = Registry('toys', 'toy', ToyInfo, noun='toy').declare\n"
    )
    assert registry["tricycle"] == registry["unicycle"] == ToyInfo(wheels=3)
    assert registry.load("unicycle")(colour="red").said == "a red unicycle"


@pytest.mark.parametrize("ask", [lambda toys, name: toys.find(name), lambda t, n: t.load(n)])
def test_a_name_that_nobody_declares_is_answered_with_the_nearest(toys, ask):
    with pytest.raises(NotFound, match="no toy is named `cra`; did you mean `car`"):
        ask(toys(car=CAR), "cra")


def test_a_name_is_declared_once(toys):
    with pytest.raises(ValueError, match=r"toy `car` is declared twice: in \w+\.a and \w+\.b"):
        len(toys(a=CAR, b=CAR))


@pytest.mark.parametrize(
    ("declaration", "said"),
    [
        ("wheels=FOUR", "`FOUR` is none; write its value out"),
        ("whels=4", r"there is no argument `whels`; did you mean `wheels`\?"),
        ("*[4]", r"`\*\[4\]` is none"),
    ],
)
def test_a_declaration_that_cannot_be_read_names_its_line(toys, declaration, said):
    with pytest.raises(ValueError, match=rf"\.car, line 3: @toy takes literals: .*{said}"):
        len(toys(car=CAR.replace("wheels=4", declaration)))


def test_a_module_without_a_declaration_adds_no_name(toys):
    assert dict(toys(notes='"""As in @toy("car") below."""\n    @toy("car")\n')) == {}


@pytest.mark.parametrize(
    ("registry", "name"),
    [(registry, name) for registry in (DATASETS, MODELS) for name in registry],
)
def test_every_name_of_a_registry_can_be_loaded(registry, name):
    assert callable(registry.load(name))


def test_names_and_what_is_known_of_them_cost_no_import_of_torch_or_numpy():
    probe = (
        "import sys; from lsqctl.datasets import DATASETS; from lsqctl.models import MODELS;"
        "assert DATASETS['cifar10'].classes == 10 and MODELS['mobilenet_v2'].depthwise;"
        "print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize("name", DATASETS)
def test_a_recipe_may_name_every_dataset_with_the_defaults_that_it_declares(name):
    data = DataSection(name=name, pad=DATASETS[name].pad, flip=DATASETS[name].flip)
    assert data.image_size == DATASETS[name].image_size


@pytest.mark.parametrize("name", MODELS)
def test_a_recipe_may_name_every_model(name):
    recipe = Recipe.model_validate(
        {"name": "x", "model": {"name": name}, "data": {"name": "mnist"}}
    )
    assert recipe.model.name == name
