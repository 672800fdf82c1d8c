"""The command line: sweeps, which Hydra starts, and the other commands."""
