from pathlib import Path
from typing import Any

import pytest

from lsqctl.recipe_file import Changes, LoadedRecipe, load

MINIMAL = "model: {name: resnet18}\ndata: {name: cifar10}\n"


class Folder:
    """A folder of recipe files, which is also the current one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, text: str | bytes, name: str = "x.yaml") -> Path:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)
        return Path(name)

    def load(self, text: str, **options: Any) -> LoadedRecipe:
        return load(self.write(text), Changes(**options))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.chdir(tmp_path)
    return Folder(tmp_path)
