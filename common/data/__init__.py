"""Real data by default: ``load("ml-100k").table("interactions")``."""

from common.data.dataset import Dataset, Provenance, load
from common.data.fetch import DataError

__all__ = ["DataError", "Dataset", "Provenance", "load"]
