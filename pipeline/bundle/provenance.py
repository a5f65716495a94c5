"""Which code made a result: the commit, and honestly what differs from it."""

import subprocess

# What decides results. Metrics and reports are left out: a run of the pipeline writes them.
DECIDING = ("models", "pipeline", "stages", "params.yaml", "dvc.yaml", "requirements.lock")


def source_state() -> dict[str, object]:
    """Return the commit of the current folder and which deciding files are not as committed.

    Outside a git repository both are None, with the reason.
    """
    try:
        commit = _git("rev-parse", "HEAD").strip()
        changed = _git("status", "--porcelain", "--untracked-files=all", "--", *DECIDING)
    except (OSError, subprocess.CalledProcessError) as e:
        reason = (getattr(e, "stderr", None) or str(e)).strip()
        return {"git_commit": None, "modified": None, "reason": reason.partition("\n")[0]}
    return {"git_commit": commit, "modified": [line[3:] for line in changed.splitlines()]}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=True)
    return done.stdout
