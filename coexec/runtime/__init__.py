"""A plan becomes a prepared run: schedule, memory, kernels, and the loop that starts and waits."""
