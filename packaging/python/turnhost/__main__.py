"""`python -m turnhost` becomes the program."""

import os
import sys

from turnhost import get_binary_path

path = get_binary_path()
os.execv(path, [path, *sys.argv[1:]])
