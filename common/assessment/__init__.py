"""The final assessment: exercises, deliverables and questions, reported by skill."""
