"""Check the types and the layers of the package as a user has it: installed plainly, outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    # A build folder of another day would install modules that are gone.
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", folder, ROOT]
        subprocess.run([sys.executable, *map(str, pip)], check=True)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "kinet_trt"]
        types = subprocess.run(command, cwd=folder, env={**os.environ, "MYPYPATH": folder}, check=False).returncode
        lint = "from importlinter.cli import lint_imports_command; lint_imports_command()"
        command = [sys.executable, "-c", lint, "--no-logo", "--no-cache", str(ROOT / "pyproject.toml")]
        layers = subprocess.run(command, cwd=folder, check=False).returncode
        sys.exit(types or layers)
