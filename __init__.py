"""A clone that is called `apl` is what `import apl` finds in a script beside it: it is the package
in it then, however that is installed, and if it is not."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

_CLONE = Path(__file__).resolve().parent


class _Kernels:
    """Finds apl.kernels where a clone has it."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: object = None
    ) -> ModuleSpec | None:
        folder = _CLONE / "kernels"
        if name != f"{__name__}.kernels":
            return None
        return spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )


sys.meta_path.append(_Kernels)
__path__ = [str(_CLONE / "apl")]
__file__ = str(_CLONE / "apl" / "__init__.py")
exec(compile(Path(__file__).read_text(encoding="utf-8"), __file__, "exec"))
