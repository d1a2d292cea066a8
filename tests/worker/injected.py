"""Faults inside a real trainer process, without a hook in the product.

Python runs ``sitecustomize`` at every start; ours waits until a module of the product is imported
and then executes the fault's code inside it, in every process that the command line starts.
"""

from __future__ import annotations

import os

from tests.conftest import CommandLine

_SITE = """
import importlib.util
import sys

FAULTS = {faults!r}


class Injector:
    def find_spec(self, name, path=None, target=None):
        if name not in FAULTS:
            return None
        code = FAULTS.pop(name)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            exec(compile(code, "<injected>", "exec"), module.__dict__)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Injector())
"""


def inject(cli: CommandLine, **faults: str) -> None:
    """Execute code inside modules: ``training_finetuning`` means ``lsqctl.training.finetuning``."""
    folder = cli.folder / "injected"
    folder.mkdir(exist_ok=True)
    named = {f"lsqctl.{name.replace('_', '.', 1)}": code for name, code in faults.items()}
    (folder / "sitecustomize.py").write_text(_SITE.format(faults=named))
    before = os.environ.get("PYTHONPATH")
    cli.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
