"""What maps of patch features show of an image: figures, components, foreground, similarity and retrieval."""
