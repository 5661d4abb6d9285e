"""Readers (a format on disk -> Example) and one LightningDataModule per data set."""
