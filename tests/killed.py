"""What killed processes leave behind."""

import os
import signal
from pathlib import Path

from beacon_lit.files import replacing


def half_written(file: Path) -> None:
    """Start to write a file in another process, which is killed before the file is in place."""
    child = os.fork()
    if not child:
        with replacing(file) as partial:
            partial.write_text("{")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len([*file.parent.glob(f".{file.name}.*")]) == 1
