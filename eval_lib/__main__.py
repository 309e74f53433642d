"""`python -m eval_lib` downloads the weights of the FID's Inception-v3 into the cache."""

import sys

from eval_lib.inception_file import COMMAND, download

try:
    print(download())
except (OSError, ValueError) as error:
    sys.exit(f"{COMMAND}: {error}")
