"""Runs of plans on boards that are not there: the executor's own steps, played on clocks. All figures from here are simulated."""
