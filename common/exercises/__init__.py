"""Exercises: the marker on the reference solution, and what is made from it."""

from common.exercises.marker import Exercise, exercise

__all__ = ["Exercise", "exercise"]
