"""``python -m neuroprune``."""

from neuroprune.cli import main

main()
