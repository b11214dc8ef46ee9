"""``python -m hf_unlearn.cli``, also under ``accelerate launch``."""

import sys

from .main import main

sys.exit(main())
