"""Install the tools that benchmarks compare with, each into its own environment: python benchmarks/install_peers.py

Versions are pinned. datatrove's English tokenizer needs spaCy (a blank pipeline, no model). text-dedup's releases on
PyPI end with 0.4.0, whose command line is the one that its page there documents.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = {
    "datatrove": ["datatrove[io,processing]==0.10.1", "spacy==3.8.18"],
    "text-dedup": ["text-dedup==0.4.0"],
}


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment."""
    return ROOT / f".venv-{peer}" / "bin" / "python"


def install(peer: str) -> None:
    """Make a peer's environment unless it is there with these very requirements."""
    directory = ROOT / f".venv-{peer}"
    stamp = directory / "installed.txt"
    wanted = "\n".join(PEERS[peer]) + "\n"
    if stamp.is_file() and stamp.read_text() == wanted:
        print(f"{peer}: in {directory}")
        return
    print(f"{peer}: installing into {directory}", flush=True)
    venv.create(directory, clear=True, symlinks=True, with_pip=True)
    subprocess.run([python_of(peer), "-m", "pip", "install", "--quiet", *PEERS[peer]], check=True)
    stamp.write_text(wanted)


if __name__ == "__main__":
    for name in sys.argv[1:] or PEERS:
        install(name)
