"""Sites in this process are those of the deployment's tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "deploy"))
