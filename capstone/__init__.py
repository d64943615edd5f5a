"""The feed-ranking system, composed from the six labs."""
