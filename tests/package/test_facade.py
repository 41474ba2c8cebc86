"""The public names of `import kinet_trt`."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest

import kinet_trt


def test_version_is_that_of_the_package():
    assert kinet_trt.__version__ == version("kinet-trt")


def test_public_names_are_imported_on_first_use():
    for name in kinet_trt.__all__:
        assert getattr(kinet_trt, name) is not None
        assert name in dir(kinet_trt)
    assert {"NOTICE", "NucleusCounter", "Detections", "count_slide", "read_image"} <= set(kinet_trt.__all__)
    code = "import sys, kinet_trt; sys.exit(bool({'cv2', 'numpy', 'openvino'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_counter_is_an_alias_of_nucleus_counter():
    assert kinet_trt.Counter is kinet_trt.NucleusCounter


def test_names_that_are_not_public_are_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = kinet_trt.no_such_name


@pytest.mark.parametrize(("shape", "mpp"), [((8, 8, 3), 0.34), ((200, 200, 3), 100.0), ((64, 64, 3), 0.01)])
def test_errors_in_python_do_not_name_options_of_the_command_line(shape, mpp):
    with kinet_trt.NucleusCounter() as counter, pytest.raises(kinet_trt.ImageError) as raised:
        counter(np.full(shape, 240, np.uint8), mpp=mpp)
    assert "--" not in str(raised.value)
    assert "µm/px (mpp)" in str(raised.value)
