"""The page's modules in Node: number formats and drawings, and the geometry of the picture."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path

from conftest import find_program

PAGE_TESTS = Path(__file__).parent / "page"


def test_page_modules_in_node(tmp_path):
    node = find_program("node", package="nodejs")
    # Node takes .js files for modules below a package.json that says so; the page itself needs none.
    (tmp_path / "package.json").write_text('{"type": "module"}')
    shutil.copytree(PAGE_TESTS, tmp_path / "tests/live/web/page")
    shutil.copytree(resources.files("kinet_trt.live.web") / "page", tmp_path / "kinet_trt/live/web/page")
    tests = sorted(map(str, (tmp_path / "tests").rglob("*.test.js")))
    assert len(tests) >= 2
    done = subprocess.run([node, "--test", *tests], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^# pass [1-9]", done.stdout, re.MULTILINE), done.stdout
