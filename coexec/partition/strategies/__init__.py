"""Strategies: each turns a graph and a device profile into a plan. One per file; a file is found by being there.

To add one: a frozen dataclass that derives from Partitioner, sets `name`, and overrides `place` (node by node) or `arrange`
(the whole graph). Its fields are its options on the command line: `mine:ratio=0.3,axis=height`.
"""

from .base import Partitioner, Situation, parse_strategy, strategies

__all__ = ["Partitioner", "Situation", "parse_strategy", "strategies"]
