"""Faults inside a real trainer process, without a hook in the product.

Python runs ``sitecustomize`` at every start; ours waits until a module of the product is imported
and then executes the fault's code inside it, in every process that the command line starts. A
process that was forked with the module imported executes it at once.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import CommandLine

_SITE = """
import sys
sys.path.append({root!r})
from tests.worker.injected import install
sys.path.pop()
install({faults!r})
"""


class Injector:
    """A finder that executes code in each module that has some, once it is imported."""

    def __init__(self, faults: dict[str, str]) -> None:
        self.faults = faults

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in self.faults:
            return None
        code = self.faults.pop(name)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _execute(code, module)

        spec.loader.exec_module = exec_module
        return spec


def _execute(code: str, module: ModuleType) -> None:
    exec(compile(code, "<injected>", "exec"), module.__dict__)


def install(faults: dict[str, str]) -> None:
    """Execute code in modules: in those that are imported now, in the others when they are."""
    waiting = {name: code for name, code in faults.items() if name not in sys.modules}
    for name in faults.keys() - waiting.keys():
        _execute(faults[name], sys.modules[name])
    sys.meta_path.insert(0, Injector(waiting))


def inject(cli: CommandLine, **faults: str) -> None:
    """Execute code inside modules: ``training_finetuning`` means ``lsqctl.training.finetuning``."""
    folder = cli.folder / "injected"
    folder.mkdir(exist_ok=True)
    cli.injected = {f"lsqctl.{name.replace('_', '.', 1)}": code for name, code in faults.items()}
    root = str(Path(__file__).parents[2])
    site = _SITE.format(faults=cli.injected, root=root)
    (folder / "sitecustomize.py").write_text(site)
    before = os.environ.get("PYTHONPATH")
    cli.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))


def heal(cli: CommandLine) -> None:
    """Let the commands that start from now on be without faults."""
    cli.injected = {}
    del cli.environment["PYTHONPATH"]
    cli.environment |= {name: os.environ[name] for name in ["PYTHONPATH"] if name in os.environ}
    (cli.folder / "injected" / "sitecustomize.py").unlink()
