"""Models that turn text into vectors, one file each. The port they answer to stands in notes/embedding.py."""
