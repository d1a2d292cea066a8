"""Training on packed images: stopped and resumed to the bit, by either decoder."""

from __future__ import annotations

import pytest
from PIL import Image

from lsqctl.datasets.image_files import check_image
from lsqctl.errors import DataError
from lsqctl.services.pack import PackOptions, pack_folder
from lsqctl.settings import load_settings
from lsqctl.training.image_folder import decode
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


@pytest.mark.parametrize("decoder", ["pil", "torchcodec"])
def test_an_orientation_in_exif_is_obeyed_by_no_decoder(tmp_path, decoder):
    """Packed images that are reduced have none any more, the others keep theirs."""
    pytest.importorskip("torchcodec" if decoder == "torchcodec" else "PIL")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.jpg", exif=exif)
    assert decode(str(tmp_path / "a.jpg"), decoder).shape == (3, 40, 60)


@pytest.mark.parametrize(("mode", "ending"), [("I;16", "png"), ("F", "tif"), ("I", "tif")])
def test_an_image_of_more_than_8_bits_is_refused_and_not_cut_off(tmp_path, mode, ending):
    path = str(tmp_path / f"a.{ending}")
    Image.new(mode, (8, 8), 999).save(path)
    message = rf"a\.{ending} has pixels of {mode}.*, which do not fit into 8 bits"
    with pytest.raises(DataError, match=message):
        decode(path, "pil")
    with pytest.raises(DataError, match=message):
        check_image(path, resize=8, mode="shorter")
