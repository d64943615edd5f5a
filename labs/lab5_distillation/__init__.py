"""Lab 5: knowledge distillation."""
