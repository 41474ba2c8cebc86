"""What `import kinet_trt` gives."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest

import kinet_trt


def test_the_version_is_that_of_the_package():
    assert kinet_trt.__version__ == version("kinet-trt")


def test_every_public_name_is_there():
    for name in kinet_trt.__all__:
        assert getattr(kinet_trt, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = kinet_trt.no_such_name


@pytest.mark.parametrize(("shape", "mpp"), [((8, 8, 3), 0.34), ((200, 200, 3), 100.0), ((64, 64, 3), 0.01)])
def test_errors_in_python_do_not_name_options_of_the_command_line(shape, mpp):
    with kinet_trt.NucleusCounter() as counter, pytest.raises(kinet_trt.ImageError) as raised:
        counter(np.full(shape, 240, np.uint8), mpp=mpp)
    assert "--" not in str(raised.value)
    assert "um/px (mpp)" in str(raised.value)
