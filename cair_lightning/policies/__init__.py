"""A vision-language model as this project needs it: collate, position, sample, score."""
