"""The results of sweeps: runs as frames, tables, plots, the report, and models to export, serve or predict with."""
