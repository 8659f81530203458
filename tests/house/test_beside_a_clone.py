"""A script that lies beside the clone, whatever that is called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = [path for path in sys.path if path.endswith("-packages")]
SCRIPT = """
import apl
from apl import LOSSES
from apl.kernels import bases
import apl.cli.app
print(apl.__file__, bases.__file__, apl.__version__, len(dir(apl)) > 5)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("apl", ["script.py"]),
        ("apl-main", ["script.py"]),
        # Where no .pth file is read, an editable installation is none.
        ("apl", ["-S", "-c", f"import sys; sys.path += {PACKAGES}\n{SCRIPT}"]),
    ],
    ids=["apl", "apl-main", "not installed"],
)
def test_a_script_beside_the_clone(tmp_path: Path, name: str, words: list[str]) -> None:
    (tmp_path / name).symlink_to(ROOT, target_is_directory=True)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    package, kernels, _, listed = done.stdout.split()
    assert listed == "True"
    assert Path(package).parent.name == "apl"
    if name == "apl":
        assert (package, kernels) == (str(ROOT / "apl/__init__.py"), str(ROOT / "kernels/bases.py"))
