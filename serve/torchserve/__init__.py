"""TorchServe: the host of a single machine."""
