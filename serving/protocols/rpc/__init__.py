"""gRPC: the server and its rules for calls, the methods of each service, and their messages."""
