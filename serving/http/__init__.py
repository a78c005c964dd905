"""HTTP/1.1: bytes of a connection to requests, answers to bytes."""
