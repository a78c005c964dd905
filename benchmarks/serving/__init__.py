"""The endpoint beside its peers, in one run: `make bench-serving`."""
