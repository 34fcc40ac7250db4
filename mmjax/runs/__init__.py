"""What a run leaves and what it shares with others: adapter, folder, seal, lock."""
