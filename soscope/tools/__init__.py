"""Single steps of the preparation as commands that make no run: image features and graphs in the released program's files."""
