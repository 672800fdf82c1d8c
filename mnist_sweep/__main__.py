"""Runs the command line: `python -m mnist_sweep …`."""

import sys

from mnist_sweep.common import shadowing

if __name__ == "__main__":
    try:
        # Before any library is imported: what would fail, and how, depends on the file.
        shadowing.check()
        try:
            from mnist_sweep.cli.main import main
        except Exception:
            shadowing.check()
            raise
    except shadowing.HidesLibrary as error:
        print(f"mnist_sweep: {error}", file=sys.stderr)
        sys.exit(2)
    main()
