"""Training on packed images: stopped and resumed to the bit, by either decoder."""

from __future__ import annotations

import pytest

from lsqctl.services.pack import PackOptions, pack_folder
from lsqctl.settings import load_settings
from tests.services.test_data_folder import make_folder
from tests.training.attempts import run_whole_and_cut
from tests.training.conftest import tiny

DATA = {"name": "imagefolder", "path": "flowers.pack", "resize": 36, "crop": 32, "pad": 0}


@pytest.mark.parametrize("decoder", ["pil", pytest.param("torchcodec", marks=pytest.mark.slow)])
def test_a_run_on_packed_images_is_resumed_to_the_bit(job, tmp_path, decoder):
    pytest.importorskip("torchcodec" if decoder == "torchcodec" else "PIL")
    make_folder(tmp_path / "data", "flowers", images=4)
    folder, options = str(tmp_path / "data" / "flowers"), PackOptions(resize=36)
    pack_folder(folder, None, options, load_settings(), notify=print)
    data = DATA | {"decoder": decoder, "batch_size": 3, "flip": True}
    recipe = tiny(data=data, train={"epochs": 1})
    run_whole_and_cut(recipe, job, stop_after=2)
