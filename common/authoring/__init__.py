"""What an author must not break: exercises, lessons, links, commands, the map of the curriculum."""
