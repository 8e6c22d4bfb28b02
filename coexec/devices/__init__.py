"""Execution in OpenCL's terms: devices, queues, buffers, kernels, events. One folder per kind of device."""
