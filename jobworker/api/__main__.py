"""`python -m jobworker.api > docs/openapi.json` freezes the description of the API anew."""

import sys

from jobworker.api import documentation

sys.stdout.buffer.write(documentation.describe())
