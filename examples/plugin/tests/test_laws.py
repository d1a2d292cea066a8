"""The network, the dataset and the format keep lsqctl's laws."""

import pytest

from lsqctl.testing import board_format_laws, dataset_laws, model_laws

LAWS = [
    *model_laws("stripes/tinynet"),
    *dataset_laws("stripes/stripes"),
    *board_format_laws("stripes/org"),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_plugin_keeps(law):
    law()
