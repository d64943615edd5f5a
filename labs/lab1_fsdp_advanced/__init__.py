"""Lab 1: training a model that no single rank holds (FSDP2)."""
