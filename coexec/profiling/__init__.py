"""From devices to a DeviceProfile: what to measure, how to time it, the table of raw measurements, and the fit."""
