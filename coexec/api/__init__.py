"""The verbs as functions, and InferenceSession: what `import coexec` offers and what the command line calls."""

from .arguments import NodeArg
from .models import Shapes, bind, default_shapes, load, random_feeds
from .options import SessionOptions
from .planning import cached_profile, plan, plan_prepared, profile_device
from .session import InferenceSession
from .simulation import simulate_plan, simulate_strategies
from .validation import validate

__all__ = ["InferenceSession", "NodeArg", "SessionOptions", "Shapes", "bind", "cached_profile", "default_shapes", "load", "plan", "plan_prepared",
           "profile_device", "random_feeds", "simulate_plan", "simulate_strategies", "validate"]
