"""The prepared section in memory, its tiles, and the LightningDataModules."""
