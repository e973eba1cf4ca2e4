"""The prepared section, its tiles, and the LightningDataModules."""
