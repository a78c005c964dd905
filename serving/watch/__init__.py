"""What is measured and told: metrics, traces and logs of the server."""
