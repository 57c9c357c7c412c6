"""Chat examples as token ids, in batches, with the positions that are to be learnt."""
