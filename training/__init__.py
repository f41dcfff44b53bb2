"""Data and a network become `weights.safetensors` and `contract.json`."""
