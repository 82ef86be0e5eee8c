"""Which of several processes that run the same command may write."""

import os

# In order of trust: torchrun and Lightning's own variables, then the launchers of clusters.
_GLOBAL_RANK = ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


def is_lead() -> bool:
    """Tell whether this process is the one that opens runs, prints and writes files.

    Lightning's launcher runs the whole command again for every further device, so each stage body runs N times.
    """
    for name in _GLOBAL_RANK:
        if name in os.environ:
            return os.environ[name] == "0"
    return os.environ.get("NODE_RANK", "0") == "0" and os.environ.get("LOCAL_RANK", "0") == "0"
