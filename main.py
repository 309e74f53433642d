"""python main.py --config=configs/digits.py --workdir=runs/digits --mode=train

The command line in a checkout; `score-sde` is the same where the package is installed. `run_modes/command_line.py` has
the modes and their flags.
"""

from run_modes.command_line import main

if __name__ == "__main__":
    main()
