"""A task that kills its process at some rows, for tests: processes import it by its name."""

import os
import signal
from dataclasses import dataclass

from gpt2rt.jobs.tasks import Score

DEADLY = "deadly"


@dataclass(frozen=True, kw_only=True)
class DyingScore(Score):
    """Score texts; one with a certain word kills the process, as the system does when memory runs out."""

    def work(self, model, row):
        if DEADLY.encode() in row.content:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().work(model, row)
