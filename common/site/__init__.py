"""Lessons, API and capstone as a static site that works without a network."""
