"""Registries of container images, which hold models too: the OCI distribution protocol."""
