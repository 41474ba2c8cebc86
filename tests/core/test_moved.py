import subprocess
import sys
from importlib import import_module

import pytest

from kinet_trt.core.moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_moved_module_is_the_new_module(old, new):
    sys.modules.pop(f"kinet_trt.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"kinet_trt\.{old} is now kinet_trt\.{new}"):
        module = import_module(f"kinet_trt.{old}")
    assert module is import_module(f"kinet_trt.{new}")


def test_moved_module_supports_both_forms_of_import():
    code = (
        "from kinet_trt import bench, model_card\n"
        "from kinet_trt.counter import Counter\n"
        "from kinet_trt.live import headless, tables\n"
        "import kinet_trt\n"
        "assert Counter is kinet_trt.Counter and bench.SCHEMA == 1 and model_card.VERSION == 1 and tables.VERSION == 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
