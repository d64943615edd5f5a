"""Lab 2: vector databases and similarity search."""
