"""How a graph is cut: partitions, plans, and the strategies that make them."""

from .plan import Partition, Plan, pieces

__all__ = ["Partition", "Plan", "pieces"]
