"""The run of `toy_runs.py` as a process of its own, which signals can be sent to.

python pretrain_program.py CORPUS OUT '{"steps": 100}'
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from tests.recipes.toy_runs import RUN, SETTINGS

from bertsmith.errors import BertsmithError
from bertsmith.recipes.pretraining.pretrain import pretrain

if __name__ == "__main__":
    corpus, out, changes = sys.argv[1:]
    settings = replace(SETTINGS, run=replace(RUN, **json.loads(changes)))
    try:
        pretrain([corpus], Path(out), settings, resume=True)
    except BertsmithError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
