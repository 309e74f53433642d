"""What pyproject.toml cannot say: the wheel gets a .pth file, by which Python refuses another project's run_lib.

The modules are copied to an empty folder: pip builds in the checkout, where those of an earlier version may be left.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# Python executes each line of a .pth file that starts with `import`. It must never fail.
GUARD = "_score_sde_jax_guard"
LINE = f'import sys; exec("try:\\n    import {GUARD}\\n    {GUARD}.install()\\nexcept Exception:\\n    pass")\n'


class BuildWithGuard(build_py):
    def run(self):
        if not self.editable_mode:
            shutil.rmtree(Path(self.get_finalized_command("build").build_base, "lib"), ignore_errors=True)
        super().run()
        for file in self._guard():
            Path(file).write_text(LINE)

    def get_outputs(self, include_bytecode=True):
        return [*super().get_outputs(include_bytecode), *self._guard()]

    def _guard(self):
        """The .pth file, unless the checkout itself is installed, whose run_lib.py may move."""
        return [] if self.editable_mode else [str(Path(self.build_lib, f"{GUARD}.pth"))]


setup(cmdclass={"build_py": BuildWithGuard})
