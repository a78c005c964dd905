"""What may be asked: the request contract of a bundle, and refusals."""
