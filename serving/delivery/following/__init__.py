"""Following what the platform desires: loading, swapping and reporting, with what a restart
remembers."""
