"""From a raw section to one with subspots, image features and graphs."""
