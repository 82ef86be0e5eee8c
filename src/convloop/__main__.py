"""Run the command: python -m convloop."""

import sys


def main() -> None:
    """Hand the words of the command line to the CLI and exit with its code."""
    from convloop.cli import main as run_command

    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
