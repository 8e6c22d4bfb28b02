"""What a piece of a node costs: one feature function, fitted latencies, and how parts, launches, waits and transfers add up."""
