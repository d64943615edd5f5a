"""Grade a folder of submissions: hostile until proven otherwise, one fixed manifest for all."""
