"""What was measured and found, as data and as text: benchmark figures, and what `doctor` knows about a machine."""
