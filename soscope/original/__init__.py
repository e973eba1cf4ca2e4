"""The published program's own interface: its two functions, its folders and its YAML files (docs/moving-over.md)."""
