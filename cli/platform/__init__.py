"""The running platform: its home, its processes, and whether they answer."""
