"""Signatures of bundles by OpenSSH, which people have: `ssh-keygen -Y sign`."""

import subprocess
from pathlib import Path

from models.errors import ParamsError, ShoalError

NAMESPACE = "shoal-bundle"  # that device/edge/signature.py and docs/bundle.md name
SIGNATURE = ".sig"  # at the end of a signed file's name
SECONDS = 120  # to enter a passphrase, or touch a security key


def sign(file: Path, key: Path) -> bytes:
    """Return a detached signature of a file.

    Args:
        file: what is signed.
        key: a private key, or a public one whose private part an agent holds.

    Raises:
        ParamsError: there is no such key.
        ShoalError: ssh-keygen is not here, or cannot sign with it.
    """
    if not key.is_file():
        raise ParamsError(f"--sign {key}: there is no such key; `ssh-keygen -t ed25519` makes one")
    command = ["ssh-keygen", "-Y", "sign", "-q", "-n", NAMESPACE, "-f", str(key)]
    try:
        with file.open("rb") as content:
            done = subprocess.run(
                command, stdin=content, capture_output=True, check=True, timeout=SECONDS
            )
    except FileNotFoundError as e:
        raise ShoalError(
            "ssh-keygen is not here; install OpenSSH 8.2 or later, or leave out --sign"
        ) from e
    except subprocess.TimeoutExpired as e:
        raise ShoalError(
            f"ssh-keygen did not sign with {key} within {SECONDS} s; add it to an agent"
        ) from e
    except subprocess.CalledProcessError as e:
        why = " ".join(e.stderr.decode(errors="replace").split())
        raise ShoalError(f"ssh-keygen cannot sign with {key}: {why}; name another --sign") from e
    return done.stdout
