"""What a GPU does with sweeps, measured by one script that needs no network and no installation."""
