"""Pure torch parts of the model: no Lightning, Hydra, W&B or file formats in here."""
