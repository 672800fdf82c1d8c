"""`python -m mnist_sweep …`."""

from mnist_sweep.cli import main

if __name__ == "__main__":
    main()
