"""Pytest plugin: select the tests of an exercise, and add up the points."""
