"""Who made the bundle: the signature of its manifest, which has the hash of every other file."""

import subprocess
from pathlib import Path

from edge.checks import BundleError
from edge.files import no_plain_file

NAMESPACE, SIGNATURE = "shoal-bundle", "manifest.json.sig"
SECONDS = 60


def require_signature(folder: Path, signers: Path) -> str:
    """Return who signed the manifest in a folder, as ssh-keygen says it.

    Args:
        folder: of the bundle.
        signers: whom to trust, a file as in the section ALLOWED SIGNERS of ssh-keygen's manual.

    Raises:
        BundleError: nobody of `signers` did, or ssh-keygen is not here.
    """
    for name in (SIGNATURE, "manifest.json"):
        if problem := no_plain_file(folder, name):
            raise BundleError(f"the bundle is not signed: {problem}")
    if not signers.is_file():
        raise BundleError(f"{signers} is no file of allowed signers")
    trusted = ["-f", str(signers), "-s", str(folder / SIGNATURE)]
    manifest = (folder / "manifest.json").read_bytes()
    reason = "no signer is named"
    for signer in _run(["find-principals", *trusted]).stdout.decode(errors="replace").splitlines():
        done = _run(["verify", "-n", NAMESPACE, "-I", signer, *trusted], manifest)
        if done.returncode == 0:
            return " ".join(done.stdout.decode(errors="replace").split())
        reason = " ".join((done.stdout + done.stderr).decode(errors="replace").split())
    raise BundleError(f"nobody in {signers} has signed this bundle ({reason})")


def _run(arguments: list[str], content: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    command = ["ssh-keygen", "-Y", *arguments]
    try:
        return subprocess.run(
            command, input=content, capture_output=True, check=False, timeout=SECONDS
        )
    except FileNotFoundError as e:
        raise BundleError("ssh-keygen is not here; install OpenSSH 8.2 or later") from e
    except (OSError, subprocess.TimeoutExpired) as e:
        raise BundleError(f"ssh-keygen cannot be run ({e})") from e
