"""A second cluster of CPU cores, beside the host."""
