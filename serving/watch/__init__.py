"""What is measured: metrics, traces and logs of the server."""
