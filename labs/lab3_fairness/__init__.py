"""Lab 3: fairness, bias and interpretability."""
