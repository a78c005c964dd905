"""How the endpoint is asked: JSON, tensors, Arrow, the Open Inference Protocol, and OpenAPI."""
