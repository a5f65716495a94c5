"""Start MLflow's UI on the runs of this folder, on 127.0.0.1 and lean.

It prints its address, and that of the page where all variants are compared. Where
MLFLOW_TRACKING_URI names a server, nothing is started: its own address is printed.

examples:
  python -m pipeline ui
  MLFLOW_TRACKING_URI=http://runs.example:5000 python -m pipeline ui
"""

import contextlib
import os
import socket
import sys

import click

from pipeline.core.params import load_params
from pipeline.report.tracking.experiment_page import page
from pipeline.report.tracking.store import (
    ARTIFACT_ROOT,
    TrackingError,
    is_server,
    shown,
    sqlite_file,
    store_uri,
)

HOST = "127.0.0.1"
FIRST_PORT = 5000
# Job workers, telemetry and four web workers triple MLflow's start-up time and memory.
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@click.command(help=__doc__)
def command() -> None:
    """Print the address, then become the server. A remote store has its own: print that."""
    uri = store_uri()
    if is_server(uri):
        print(f"MLFLOW_TRACKING_URI names a server; its UI is at {shown(uri)}")
        print_comparison(shown(uri))
        return
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise TrackingError(
            f"{file} is missing, so there is nothing to show: run `make repro` first"
        )
    port = free_port()
    address = f"http://{HOST}:{port}"
    print(f"MLflow UI: {address} (ready in about ten seconds; Ctrl-C stops it)")
    print_comparison(address)
    sys.stdout.flush()
    command = [
        *(sys.executable, "-m", "mlflow", "ui"),
        *("--backend-store-uri", uri, "--default-artifact-root", ARTIFACT_ROOT.resolve().as_uri()),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
    ]
    os.execvpe(command[0], command, os.environ | LEAN)


def print_comparison(address: str) -> None:
    """Print where the variants of this folder's project are compared, if any was tracked."""
    try:
        found = page(load_params().name)
    except TrackingError as e:
        print(f"warning: {e}", file=sys.stderr)
        return
    if found:
        print(f"all variants, most accurate first: {address}/{found}")


def free_port() -> int:
    """Return the first port from 5000 upwards that nothing listens on."""
    for port in range(FIRST_PORT, FIRST_PORT + 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As the server does: a port of connections that have just closed is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise TrackingError(f"no free port from {FIRST_PORT} upwards; stop a server that is not needed")
