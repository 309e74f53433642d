"""`score-sde`: the command line, once it is certain that the packages it imports are this project's."""

import sys
from pathlib import Path

from absl import flags

from _score_sde_jax_guard import check_packages

flags.disclaim_key_flags()  # so that --help lists the flags as the program's


def main() -> None:
    """Runs `run_modes.command_line`. Another project's package is one line on stderr, and exit status 2."""
    try:
        check_packages(Path(__file__).parents[1])
    except ImportError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
    from run_modes import command_line

    command_line.main()
