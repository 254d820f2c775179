"""`meshctl completion bash|zsh|fish`: a script for the user's shell, made from the real flags of all commands."""

import argparse
import sys

from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.completion import SHELLS, tree

EPILOG = """\
  bash: source <(meshctl completion bash)
  zsh:  source <(meshctl completion zsh)
  fish: meshctl completion fish | source"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The shell."""
    parser.add_argument("shell", choices=tuple(SHELLS))


def run(arguments: argparse.Namespace) -> int:
    """Print the script."""
    sys.stdout.write(SHELLS[arguments.shell](tree()))
    return EXIT_DONE
