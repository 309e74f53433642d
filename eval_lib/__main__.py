"""`python -m eval_lib` downloads the weights of the FID's Inception-v3 into the cache."""

import argparse
import sys

from eval_lib.inception_file import COMMAND, SHA256, URL, cached, download

about = f"Downloads the weights of the FID's Inception-v3, 96 MB, from {URL} (sha256 {SHA256}) to {cached()}."
argparse.ArgumentParser(prog=COMMAND, description=about).parse_args()
try:
    print(download())
except (OSError, ValueError) as error:
    sys.exit(f"{COMMAND}: {error}")
