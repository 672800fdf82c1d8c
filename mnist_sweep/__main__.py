"""Runs the command line: `python -m mnist_sweep …`."""

from mnist_sweep.cli.main import main

if __name__ == "__main__":
    main()
