"""Generator of the OpenAPI document: `python -m jobworker.api > docs/openapi.json`."""

import sys

from jobworker.api import documentation

sys.stdout.buffer.write(documentation.describe())
