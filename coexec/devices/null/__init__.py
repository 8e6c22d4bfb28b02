"""A device that computes nothing and takes the time it is told: for testing what happens when, without hardware."""
