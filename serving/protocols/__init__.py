"""How it is asked: JSON, tensors, Arrow, the Open Inference Protocol over REST and gRPC, and their
description."""
